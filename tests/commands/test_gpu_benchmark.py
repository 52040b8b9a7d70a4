"""The benchmark of a GPU runs to its end without one, with small sizes, and keeps to its time."""

from functools import partial
from pathlib import Path

import pytest
import torch

from callbacks.compiled import CompileTowers
from experiments.benchmarks.gpu import steps
from experiments.benchmarks.gpu.__main__ import gpu
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Budget, Report
from experiments.benchmarks.gpu.timeline import PARTS, Timeline
from experiments.benchmarks.ranking import Size
from tests.helpers.gradient_cases import new_batch, new_model


def rows_of(text: str, title: str) -> list[list[str]]:
    """The rows of the table below a title."""
    lines = text.partition(f"## {title}")[2].partition("\n## ")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("|")][2:]


@pytest.mark.slow
def test_it_runs_to_its_end_and_has_all_tables(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "CompileTowers", partial(CompileTowers, "eager"))
    monkeypatch.setattr(steps, "WARM_UP", 1)
    monkeypatch.setattr(steps, "STEPS", 1)
    file = tmp_path / "gpu.md"
    tiny = {"cached": 8, "images": 6, "search": Size(4, 60, 3), "width": 8}
    tiny |= {"seeds": 1, "fit_steps": 2, "references": 16, "seconds": 3000}
    gpu([f"local-dir:{clip_folder}"], [4], device="cpu", teraflops=1.0, markdown=file, **tiny)
    text = file.read_text()
    table = rows_of(text, "Training steps")
    assert [row[1] for row in table] == [variant.name for variant in steps.VARIANTS], text
    assert all(len(row) == len(steps.COLUMNS) and row[5].endswith("%") for row in table)
    assert [row[2] for row in table] == ["4"] * 8 + ["8"]
    for row in table:
        shares = [float(cell.rstrip("%")) for cell in row[8:] if cell != "-"]
        assert not shares or sum(shares) == pytest.approx(100, abs=3)
    assert [row[0] for row in rows_of(text, "Images from files")] == ["decoded each time", "kept pixels"]
    assert [row[0] for row in rows_of(text, "4 queries in 60")] == ["product and first 50", "all figures"]
    (fit,) = rows_of(text, "A short fit on scenes")
    assert fit[:2] == ["0", "2"] and 0 <= float(fit[2]) <= float(fit[3]) <= 100
    assert "of 3000 s." in text and "Left out" not in text


def test_what_does_not_fit_into_the_time_is_left_out_and_named(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "operations", lambda *_: {variant.counted: 1 for variant in steps.VARIANTS})
    monkeypatch.setattr(steps, "CompileTowers", partial(CompileTowers, "eager"))
    monkeypatch.setattr(steps, "WARM_UP", 1)
    monkeypatch.setattr(steps, "STEPS", 1)
    clock, file = iter(range(10_000)), tmp_path / "gpu.md"
    budget = Budget(4.0, lambda: float(next(clock)))
    report = Report("head", file)
    report.section("Training steps", steps.COLUMNS)
    card = Card(torch.device("cpu"))
    steps.measure_model(card, f"local-dir:{clip_folder}", 2, steps.Sizes(cached=4, low_precision=False), report, budget)
    text = file.read_text()
    assert text.startswith("head\n") and text.count("Left out for lack of time: ") >= 5
    assert "gradient caching (about " in text


def test_a_budget_gives_parts_and_never_less_than_nothing() -> None:
    times = iter([0.0, 2.0, 2.0, 11.0, 11.0, 11.0, 11.0])
    budget = Budget(10.0, lambda: next(times))
    part = budget.part(0.5)
    assert part.left == pytest.approx(4.0 - 9.0)
    assert budget.part(0.5).left == 0.0


def test_rows_that_were_measured_stay_in_the_file_whatever_comes_after(tmp_path: Path) -> None:
    report = Report("head", tmp_path / "new" / "gpu.md")
    report.section("One", ["a", "b"])
    report.row("x", "1")
    assert "| x | 1 |" in (tmp_path / "new" / "gpu.md").read_text()
    report.note("Said.")
    report.section("Two", ["c"])
    assert (tmp_path / "new" / "gpu.md").read_text() == report.text()
    assert report.text().index("Said.") < report.text().index("## Two")


def test_marks_divide_a_step_into_its_parts_and_change_no_gradient() -> None:
    model, other = (new_model("Text-CC", steps.WholeBatch(), torch.float32) for _ in range(2))
    batch, timeline = new_batch(4, torch.float32), Timeline(torch.device("cpu"))
    timeline.mark("copies")
    with timeline.listening(model):
        model.losses(batch)["loss"].backward()
    timeline.mark("towers")
    other.losses(batch)["loss"].backward()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)
    shares = timeline.shares()
    assert list(shares) == list(PARTS) and sum(shares.values()) == pytest.approx(1)
    assert min(shares[part] for part in ("towers", "fusion", "loss")) > 0
    assert "encode_image" not in vars(model.backbone)


def test_the_peak_is_that_of_the_card_or_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Card(torch.device("cpu")).share_of_peak(1e12, 1.0) is None
    assert Card(torch.device("cpu"), 2.0).share_of_peak(1e12, 1.0) == 0.5
    names = {"NVIDIA H100 PCIe": 756.0, "NVIDIA H100 80GB HBM3": 989.0, "NVIDIA A100-SXM4-80GB": 312.0}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert Card(torch.device("cuda")).teraflops == peak


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"expected one of each model, got 2 of 1 \(batches\)"):
        gpu(["ViT-B-32"], [1, 2])
    with pytest.raises(ValueError, match=r"expected some of steps, .*, got 'all' \(parts\)"):
        gpu(["ViT-B-32"], [1], parts=["all"])
    with pytest.raises(ValueError, match=r"above 0, got nan \(seconds\)"):
        gpu(["ViT-B-32"], [1], seconds=float("nan"))
