"""Settings that only Lightning, or a constructor, finds wrong: one line with the setting, through the command line."""

from pathlib import Path

import pytest
import torch

from contextcir.errors import LONGEST
from experiments.failures import one_line_errors
from experiments.run import main
from tests.helpers.scenes_flags import configs, draw, on


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "scenes")


@pytest.mark.parametrize(
    "flag",
    [
        "--trainer.devices=0",
        "--trainer.max_time=nonsense",
        "--trainer.accelerator=nonsense",
        "--trainer.accelerator=cuda",
        "--trainer.strategy=nonsense",
        "--trainer.limit_val_batches=-1",
        "--trainer.max_epochs=-3",
        "--trainer.num_nodes=0",
        "--trainer.accumulate_grad_batches=0",
        "--trainer.val_check_interval=0",
        "--trainer.check_val_every_n_epoch=0",
        "--seed_everything=-1",
        "--data.batch_size=0",
        "--data.root=${oc.env:NOT_THERE}",
        "--model.fusion.heads=0",
    ],
)
def test_a_bad_setting_is_named_in_one_line(
    flag: str,
    drawn: Path,
    small: list[str],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if flag == "--trainer.accelerator=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("NOT_THERE", raising=False)
    flags = [*configs("base", "scenes"), *small, *on(drawn), "--trainer.max_steps=2", "--trainer.callbacks=null"]
    with pytest.raises(SystemExit) as end, one_line_errors():
        main(["fit", *flags, "--trainer.logger=false", flag])
    lines = capsys.readouterr().err.strip().splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    assert end.value.code in (1, 2) and lines[-1:] == told, lines
    assert flag.partition("=")[0] in told[0] and len(told[0]) <= LONGEST and "Namespace" not in told[0]
