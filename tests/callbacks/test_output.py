"""What a fit and a test print as a log: the project's own tables and lines, and nothing of Lightning's internals."""

import re
import warnings
from pathlib import Path

import pytest

from experiments.run import main
from tests.helpers.scenes_flags import configs, draw, on

NOISE = re.compile(r"Test metric|Validate metric|DataLoader \d|loader \d|FLOPs|eval mode|sizes do not match")
QUIET = ("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@pytest.mark.slow
def test_no_line_of_lightnings_tables_loaders_or_warnings_is_printed(
    small: list[str],
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Lightning warns of few workers only on machines with many cores.
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda n: 8)
    scenes = draw(tmp_path / "scenes")
    flags = [*configs("base", "scenes"), *(flag for flag in small if flag not in QUIET), *on(scenes)]
    flags += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main(["fit", *flags])
        fit = capfd.readouterr()
        main(["test", *flags])
        test = capfd.readouterr()
    messages = [str(warning.message) for warning in caught]
    lines = [*fit.out.splitlines(), *fit.err.splitlines(), *test.out.splitlines(), *test.err.splitlines(), *messages]
    assert [line for line in lines if NOISE.search(line) or "many workers" in line] == []
    printed = fit.out
    assert re.search(r"all +ContextCIR +[\d,]+ +[\d,]+", printed)
    assert "scenes val, after training (" in printed and "before training" not in printed
    assert "epoch 1, step 2/2, loss " in printed and "scenes test_unseen, test (" in test.out
    assert len(fit.out.splitlines()) + len(test.out.splitlines()) < 250
