"""The demo: a run, the plain sum that trains beside it, and the table of both."""

import os
from pathlib import Path

import pytest

from contextcir.files import read_json
from data_modules.scenes.writer import Size, write_scenes
from experiments.demo import SumBeside, demo, summarise

SIZE = Size(train_references=3, references=2, shared_references=2)
pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 0, SIZE, workers=1)
    return folder


@pytest.fixture
def flags(small: list[str], root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    size = [f"--data.size.{name}={value}" for name, value in vars(SIZE).items()]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--model.optimizer.init_args.warmup_steps=0"]
    blocks = ["--model.backbone.trainable_text_blocks=null"]
    return [*small, f"--data.root={root}", *size, "--data.batch_size=8", "--name=demo", *steps, *blocks]


def metrics(row: str, recall: float, subset: float) -> dict:
    return {"val": {"rows": {row: {"recall_at_1": recall, "subset_recall_at_1": subset}}}}


@pytest.mark.slow
def test_the_plain_sum_is_trained_beside_and_told(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = demo(flags)
    shown = capsys.readouterr().out.splitlines()
    other = folder / "beside" / "plain_sum"
    theirs = read_json(other / "result.json")["metrics"]["fit_end"]["val"]["rows"]["composed"]
    ours = read_json(folder / "metrics.json")
    assert set(ours) == {"fit_start", "fit_end", "test"}
    lines = {line.split("  ")[0]: line.split()[-2:] for line in shown}
    expected = {
        "composed query, trained": ours["fit_end"]["val"]["rows"]["composed"],
        "plain sum, trained as long": theirs,
    }
    for label, figures in expected.items():
        assert lines[label] == [f"{figures[name]:.2f}" for name in ("recall_at_1", "subset_recall_at_1")]
    settings = (other / "run" / "config.yaml").read_text()
    assert "Sum" in settings and "ClauseSum" not in settings
    assert "SumBeside" not in (folder / "config.yaml").read_text()
    # The same command goes on with what is done: no other training is begun, and the table is the same.
    made = (other / "result.json").stat().st_mtime_ns
    demo(flags)
    assert (other / "result.json").stat().st_mtime_ns == made
    assert {line.split("  ")[0]: line.split()[-2:] for line in capsys.readouterr().out.splitlines()}.items() >= {
        label: lines[label] for label in expected
    }.items()


@pytest.mark.slow
def test_a_sum_that_fails_is_told_and_the_demo_goes_on(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.demo.PLAIN_SUM", ("--model.fusion=NoSuchFusion",))
    folder = demo(flags)
    captured = capsys.readouterr()
    assert "the plain sum was not trained" in captured.err and "NoSuchFusion" in captured.err
    assert "composed query, trained" in captured.out and "plain sum" not in captured.out
    assert str(folder / "metrics.json") in captured.out


def test_each_training_has_half_of_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    monkeypatch.setattr("torch.set_num_threads", given.append)
    monkeypatch.setattr("experiments.demo.Runner.run", lambda self, trials: given.append(("beside", self.threads)))
    trainer = type("Trainer", (), {"default_root_dir": str(tmp_path)})()
    beside = SumBeside([])
    beside.on_train_start(trainer, None)
    beside._thread.join()
    beside.on_train_end(trainer, None)
    assert sorted(given, key=str) == [("beside", 3), 3, 6]


def test_the_table_names_the_best_row_without_composing() -> None:
    after = metrics("composed", 40, 45)
    after["val"]["rows"] |= metrics("sum", 30, 41)["val"]["rows"] | metrics("image_only", 4, 10)["val"]["rows"]
    before = metrics("composed", 20, 25)
    before["val"]["rows"] |= metrics("sum", 10, 21)["val"]["rows"] | metrics("text_only", 12, 33)["val"]["rows"]
    lines = summarise({"fit_end": after, "fit_start": before}, {"fit_end": metrics("composed", 35, 44)})
    figures = [(line.split("  ")[0], *map(float, line.split()[-2:])) for line in lines[1:]]
    assert figures == [
        ("composed query, trained", 40, 45),
        ("plain sum, trained as long", 35, 44),
        ("best without composing, same towers (sum)", 30, 41),
        ("best without composing, before training (text only)", 12, 33),
    ]
    assert len({len(line) for line in lines}) == 1
