"""What docs/quickstart.md shows is run in its order, in small."""

import shlex
from pathlib import Path

import pytest
from safetensors.torch import load_file

from experiments import scenes
from experiments.report.__main__ import main as report
from experiments.run import main
from experiments.search.__main__ import main as search
from tests.commands.test_readme import commands, python_of
from tests.helpers.scenes_flags import SIZE

DOCUMENT = "docs/quickstart.md"


@pytest.mark.slow
def test_its_commands_run_in_their_order(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "id1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("CIR_RUNS", "CIR_DATA"):
        monkeypatch.delenv(name, raising=False)
    lines = [line for line in commands(DOCUMENT, "python -m experiments.") if "draw=true" not in line]
    size = [f"size.{name}={value}" for name, value in vars(SIZE).items()]
    small += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.optimizer.init_args.warmup_steps=0"]
    small += ["--data.batch_size=8", "--model.backbone.trainable_text_blocks=null", *(f"--data.{one}" for one in size)]
    for line in lines:
        words = shlex.split(line.replace("/ID", "/id1").replace("val-3-0.jpg", "val-1-0.jpg"))[2:]
        command, flags = words[0].removeprefix("experiments."), words[1:]
        if command == "scenes":
            monkeypatch.setattr("sys.argv", [command, *flags, *(f"--{one}" for one in size), "--workers=1"])
            scenes.main()
        elif command == "run":
            main([*flags, *small])
        else:
            {"report": report, "search": search}[command](flags)
    said = capsys.readouterr().out
    assert len(lines) == 5 and Path("report.html").is_file() and "scenes.index: " in said


def test_its_python_runs_on_a_published_model(golden: Path) -> None:
    images = load_file(golden / "images.safetensors")["reference"]
    names = {"images": images, "captions": ["more zebras"] * len(images)}
    exec(python_of(DOCUMENT).replace("runs/first/ID", str(golden)), names)
    assert names["query"].shape == names["candidates"].shape == (6, 32) and names["scores"].shape == (6, 6)
    assert names["model"].attention_maps(images, names["captions"]).shape[:4] == (4, 6, 8, 17)
