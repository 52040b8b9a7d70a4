"""`--help` in a page, `--help=all`, and what is left out of a start."""

import logging
import re
import warnings
from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from experiments.help import COMMANDS, PAGES, told, value_of
from experiments.run import main, settings_parser
from experiments.start import quiet, quiet_loggers
from tests.helpers.paths import CONFIGS
from tests.helpers.scenes_flags import configs

pytestmark = pytest.mark.usefixtures("runs")


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code in (0, None)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_page_with_the_values_of_the_default_configs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, command, "--help")
    lines = text.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 120
    assert lines[0].startswith(f"usage: python -m experiments.run {command} --config NAME")
    for keys in PAGES[command].values():
        for key in keys:
            assert re.search(rf"^  --{re.escape(key)} +\S+ +\S", text, re.MULTILINE), key
    assert re.search(r"--data\.batch_size +128 ", text)
    assert "--help=all" in text and "--print_config" in text
    assert ("--model.optimizer.lr " in text) == (command == "fit")


def test_values_are_those_of_the_given_files_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fit", *configs("base", "cirr_b32"), "--model.concept=null", "--trainer.max_steps=7", "-h")
    for key, value in {
        "data": "CIRR",
        "data.batch_size": "256",
        "model.backbone.model": "ViT-B-32-quickgelu",
        "model.concept": "null",
        "model.optimizer.lr": "1e-05",
        "trainer.max_steps": "7",
        "name": "cirr_b32",
    }.items():
        assert re.search(rf"^  --{re.escape(key)} +{re.escape(value)} ", text, re.MULTILINE), key


def test_every_key_of_the_pages_is_one_of_the_parser() -> None:
    keys = {key for page in PAGES.values() for keys in page.values() for key in keys}
    scenes = ["fit", *configs("base", "scenes")]
    parser = settings_parser()
    settings = parser.parse_args(scenes).fit
    typed = {key: told(value_of(settings, key)) for key in sorted(keys - {"data", "model.fusion", "model.concept"})}
    again = parser.parse_args([*scenes, *(f"--{key}={value}" for key, value in typed.items())]).fit
    assert {key: told(value_of(again, key)) for key in typed} == typed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model.fusion=Combiner"], {"width": 640, "dropout": 0.5}),  # that of CrossAttentionFusion is 0
        (["--model.fusion=EditedImageFusion"], {"layers": 2, "heads": 8, "dropout": 0.0}),  # 4 layers there
        (["--model.fusion.layers=3", "--model.fusion=EditedImageFusion"], {"layers": 3, "heads": 8, "dropout": 0.0}),
        (["--model.fusion.layers=3", "--model.fusion=Combiner"], {"width": 640, "dropout": 0.5}),
        ([f"--config={CONFIGS / 'overlays' / 'raw_combiner.yaml'}"], {"width": 640, "dropout": 0.5}),
    ],
)
def test_a_class_keeps_what_was_set_and_not_what_the_one_before_it_had_by_default(
    flags: list[str], expected: dict[str, object]
) -> None:
    fusion = settings_parser().parse_args(["fit", *configs("base", "scenes"), *flags]).fit.model.fusion
    assert vars(fusion.init_args) == expected


def test_the_program_has_a_page_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "--help")
    assert len(text.splitlines()) <= 20
    assert all(f"  {name}" in text for name in COMMANDS) and "fit --help" in text


def test_all_settings_are_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "fit", "--help=all")
    assert len(text.splitlines()) > 300 and "--trainer.reload_dataloaders_every_n_epochs" in text


def test_values_are_told_as_they_are_typed() -> None:
    named = Namespace(class_path="some.module.Class", init_args=Namespace(lr=1e-3))
    assert [told(value) for value in (named, None, True, 0.002, 3, "auto", [1, 2])] == [
        "Class", "null", "true", "0.002", "3", "auto", "[1, 2]",
    ]  # fmt: skip
    assert value_of(Namespace(a=named), "a.lr") == 1e-3
    assert value_of(Namespace(a=None), "a.lr") is None


def test_what_nobody_can_act_on_is_left_out_and_the_rest_is_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
        warnings.simplefilter("always")
        quiet()
        for text in ("Precision bf16-mixed is not supported by the model summary.", "the disk is nearly full"):
            warnings.warn(text, stacklevel=1)
        warnings.warn("The `srun` command is available on your system but is not used. HINT", stacklevel=1)
        log.info("💡 Tip: buy this")
        log.info("the learning rate is 1")
        monkeypatch.setenv("SLURM_JOB_ID", "3")
        warnings.simplefilter("always")
        quiet()
        warnings.warn("The `srun` command is available on your system but is not used. HINT", stacklevel=1)
    texts = [str(warning.message) for warning in caught]
    assert texts[0] == "the disk is nearly full" and len(texts) == 2 and "srun" in texts[1]  # in a job it matters
    assert "the learning rate is 1" in caplog.messages and "💡" not in caplog.text


def test_wandb_is_not_given_what_it_warns_of(tmp_path: Path) -> None:
    trainer = Trainer(logger=WandbLogger(save_dir=tmp_path), accelerator="cpu")
    assert "anonymous" in trainer.logger._wandb_init
    quiet_loggers(trainer)
    assert "anonymous" not in trainer.logger._wandb_init
