"""The figures of a study: differences from the reference, equal axes for equal quantities, nothing that is constant."""

from pathlib import Path
from typing import Any

from experiments.study.answers import Answer, Difference
from experiments.study.pictures import MOST_PANELS, chosen_panels, draw_answers, figure_of, grid_of
from experiments.study.plan import Pair
from experiments.study.queries import Bootstrapped
from experiments.study.results import interval, paired_difference
from experiments.study.tables import Cell, Table


def cell(values: list[float], reference: list[float] | None) -> Cell:
    difference = None if reference is None else paired_difference(values, reference)
    return Cell(dict(enumerate(values, 1)), interval(values), difference)


PLAIN = {"R@1, 1": [40.0, 42.0, 41.0], "R@1, 2": [30.0, 30.5, 31.0], "before the swapped one": [70.0, 71.0, 72.0]}
BETTER = {"R@1, 1": [41.0, 43.0, 42.5], "R@1, 2": [40.0, 41.5, 40.0], "before the swapped one": [69.0, 72.0, 71.0]}


def table(title: str = "val", **more: list[float]) -> Table:
    plain, better = PLAIN | more, BETTER | more
    cells = {
        "plain": {label: cell(values, None) for label, values in plain.items()},
        "better": {label: cell(values, plain[label]) for label, values in better.items()},
    }
    return Table(title, tuple(plain), cells)


def points(axis: Any) -> list[tuple[float, float]]:
    """The large dots of a panel: place on the axis, and line."""
    return [(float(c[0].get_xdata()[0]), float(c[0].get_ydata()[0])) for c in axis.containers]


def test_panels_show_differences_from_the_reference_in_the_order_of_the_study() -> None:
    figure = figure_of([table()], {"better": "plain"})
    axes = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title(loc="left") for axis in axes] == list(PLAIN)
    for axis, label in zip(axes, PLAIN, strict=True):
        difference = paired_difference(BETTER[label], PLAIN[label])
        assert points(axis) == [(difference.mean, 0.0)]
        assert axis.get_title(loc="right") == "better →"
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["better"]
    assert (
        "difference from plain in percentage points" in figure.get_supxlabel() and "3 seeds" in figure.get_supxlabel()
    )


def test_one_quantity_has_one_axis() -> None:
    first, second, other = (axis for axis in figure_of([table()], {"better": "plain"}).axes if axis.axison)
    assert first.get_xlim() == second.get_xlim() != other.get_xlim()


def test_what_is_the_same_for_all_is_no_panel_and_there_are_few() -> None:
    constant = table(**{"missing images": [0.0, 0.0, 0.0]})
    assert [label for _, label in chosen_panels([constant], 9)] == list(PLAIN)
    tables = [table("val"), table("test"), table("unseen")]
    assert [(t.title, label) for t, label in chosen_panels(tables, MOST_PANELS)] == [
        (title, label) for title in ("val", "test") for label in PLAIN
    ]


def test_without_a_reference_means_are_shown_in_percent() -> None:
    figure = figure_of([table()], {})
    axes = [axis for axis in figure.axes if axis.axison]
    assert points(axes[0]) == [(interval(PLAIN["R@1, 1"]).mean, 0.0), (interval(BETTER["R@1, 1"]).mean, 1.0)]
    assert "mean in percent" in figure.get_supxlabel() and axes[0].get_title(loc="right") == ""


def test_several_references_are_named_line_by_line() -> None:
    cells = table().cells | {"best": table().cells["better"]}
    figure = figure_of([Table("", tuple(PLAIN), cells)], {"better": "plain", "best": "better"})
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["better - plain", "best - better"]


def test_rows_of_panels_are_about_equally_long() -> None:
    for count, columns in ((1, 1), (3, 3), (4, 2), (5, 3), (6, 3), (7, 3)):
        _, axes = grid_of(count, ["a"])
        assert axes[0].get_gridspec().ncols == columns


def test_answers_can_be_drawn_with_a_figure_that_one_lacks(tmp_path: Path) -> None:
    found = Difference(Bootstrapped(1.0, 0.5, 1.5, 10, 40, 3), interval([1.0, 1.1, 0.9]))
    answers = [Answer(Pair("?", "better", "plain"), {"R@1": found}), Answer(Pair("?", "best", "plain"), {})]
    draw_answers(answers, ["R@1", "Rsub@1"], tmp_path / "answers.png")
    assert (tmp_path / "answers.png").read_bytes()[:4] == b"\x89PNG"
