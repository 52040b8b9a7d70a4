"""Figures of what is retrieved: chosen by rule, the right answers framed, the same from one rank and from two."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import normalize

import callbacks.retrieval_sheet
from callbacks import QueryResults, RecallTable, RetrievalFigures
from callbacks.retrieval import ordinal, sample
from callbacks.retrieval_sheet import QueryPanel, Shown, draw_sheet
from tests.callbacks.test_attention import ImageRecorder
from tests.callbacks.test_recall import ToyModule, make_trainer
from tests.helpers.pictured import PicturedData, several_targets
from tests.helpers.toy_evaluation import (
    GALLERY,
    QUERIES,
    ToyData,
    image_embeddings,
    make_protocol,
    reference,
    text_embeddings,
)

pytestmark = pytest.mark.all_figures


class Sheets:
    """Keeps what would be drawn."""

    def __init__(self) -> None:
        self.drawn: list[tuple[str, list[QueryPanel], str]] = []

    def __call__(self, title: str, panels: list[QueryPanel], footer: str) -> "Sheets":
        self.drawn.append((title, panels, footer))
        return self

    def savefig(self, path: Path, **options: Any) -> None:
        Image.new("RGB", (4, 4)).save(path)


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> Sheets:
    kept = Sheets()
    monkeypatch.setattr(callbacks.retrieval_sheet, "draw_sheet", kept)
    return kept


def evaluate(folder: Path, data: ToyData, *callbacks: Any, stage: str = "validate", **options: Any) -> None:
    trainer = make_trainer(folder, callbacks=[RecallTable(), *callbacks], **options)
    getattr(trainer, stage)(ToyModule(), datamodule=data, **({} if stage == "fit" else {"verbose": False}))


def naive_order(query: int, gain: float) -> list[tuple[int, float]]:
    """All images but the reference, the nearest first; the toy model adds three times the text, the sum once."""
    image, text = image_embeddings()[reference(query)], text_embeddings()[query]
    embedding = image + 3 * text if gain == 3 else normalize(image, dim=0) + normalize(text, dim=0)
    scores = (normalize(image_embeddings()) @ normalize(embedding, dim=0)).tolist()
    return sorted(
        ((index, score) for index, score in enumerate(scores) if index != reference(query)), key=lambda item: -item[1]
    )


@given(st.integers(1, 500), st.integers(1, 20), st.none() | st.integers(1, 90))
def test_the_sample_is_every_nth_query_from_the_first_on(queries: int, samples: int, every: int | None) -> None:
    chosen = sample(queries, samples, every)
    step = every or max(1, queries // samples)
    expected = [place for place in range(queries) if place % step == 0]
    assert chosen == expected[:samples] and chosen[0] == 0


def test_the_first_images_of_both_rows_are_shown_with_scores_ranks_and_frames(tmp_path: Path, sheets: Sheets) -> None:
    data = PicturedData(tmp_path / "images")
    evaluate(tmp_path, data, RetrievalFigures(samples=3, images=4))
    title, panels, footer = sheets.drawn[0]
    assert title == "toy val, validate"
    assert [panel.name for panel in panels] == ["query 100", "query 102", "query 104"]  # every 2nd of 7
    protocol, asked = make_protocol("val"), [index for _, index in data.shown[:24]]
    hits = {"composed": [0, 0], "sum": [0, 0]}
    for number, (query, panel) in enumerate(zip((0, 2, 4), panels, strict=True)):
        assert list(panel.rows) == ["composed", "sum"]
        for row, gain in (("composed", 3), ("sum", 1)):
            order, shown = naive_order(query, gain), panel.rows[row]
            assert shown.scores == pytest.approx([score for _, score in order[:4]], abs=1e-5)
            assert shown.right == [index in protocol.targets[query] for index, _ in order[:4]]
            start = 8 * number + (0 if row == "composed" else 4)
            assert asked[start : start + 4] == [index for index, _ in order[:4]]
            rank = 1 + [index for index, _ in order].index(protocol.targets[query][0])
            assert shown.rank == rank
            hits[row][0] += rank == 1
            hits[row][1] += rank <= 5
    assert "every 2nd query of 7, from the first on" in footer and "among 11 images" in footer
    for row, (one, five) in hits.items():
        assert f"{row}: hits {one} of 3 at 1, {five} of 3 at 5; over all queries" in footer


def test_the_sample_does_not_depend_on_what_is_found(tmp_path: Path, sheets: Sheets) -> None:
    for number in range(2):
        module = ToyModule()
        with torch.no_grad():
            module.gain.fill_(3.0 if number else -3.0)
        trainer = make_trainer(tmp_path, callbacks=[RecallTable(), RetrievalFigures(samples=2, every_n_queries=3)])
        trainer.validate(module, datamodule=PicturedData(tmp_path / "images"), verbose=False)
    names = [[panel.name for panel in panels] for _, panels, _ in sheets.drawn]
    assert names == [["query 100", "query 103"]] * 4
    ranks = [[panel.rows["composed"].rank for panel in panels] for _, panels, _ in sheets.drawn]
    assert ranks[0] != ranks[2]


def test_all_right_answers_are_framed_where_there_are_several(tmp_path: Path, sheets: Sheets) -> None:
    data = PicturedData(tmp_path / "images", several=True)
    evaluate(tmp_path, data, RetrievalFigures(samples=QUERIES, images=GALLERY - 1))
    _, panels, _ = sheets.drawn[0]
    for query, panel in enumerate(panels):
        order = [index for index, _ in naive_order(query, 3)]
        assert panel.rows["composed"].right == [index in several_targets()[query] for index in order]
        assert sum(panel.rows["composed"].right) == len({*several_targets()[query]} - {reference(query)})


def test_figures_come_for_each_split_and_every_n_epochs_and_go_to_wandb(tmp_path: Path) -> None:
    logger = ImageRecorder()
    data, figures = PicturedData(tmp_path / "images"), RetrievalFigures(every_n_epochs=2, samples=2)
    evaluate(tmp_path, data, figures, stage="fit", max_epochs=4, logger=logger)
    evaluate(tmp_path, data, RetrievalFigures(samples=2), stage="test")
    found = {folder.name: sorted(p.name for p in folder.iterdir()) for folder in (tmp_path / "retrieval").iterdir()}
    both = ["hard.jpg", "val.jpg"]
    assert found == {"epoch_001": both, "epoch_003": both, "test": ["test.jpg"]}
    assert [key for key, _, _ in logger.sent] == ["val_retrieval", "hard_retrieval"] * 2
    with Image.open(tmp_path / "retrieval" / "test" / "test.jpg") as picture:
        assert picture.format == "JPEG" and picture.width > 500


def test_without_the_recall_table_the_composed_query_stands_alone(tmp_path: Path, sheets: Sheets) -> None:
    trainer = make_trainer(tmp_path, callbacks=[RetrievalFigures(samples=1)])
    trainer.validate(ToyModule(), datamodule=PicturedData(tmp_path / "images"), verbose=False)
    assert list(sheets.drawn[0][1][0].rows) == ["composed"]


def test_data_without_pictures_are_told_and_zero_samples_draw_nothing(tmp_path: Path, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        evaluate(tmp_path, ToyData(), RetrievalFigures())
    assert "no retrieval figures: ToyData has no gallery_image" in caplog.text
    evaluate(tmp_path, PicturedData(tmp_path / "images"), RetrievalFigures(samples=0))
    assert not (tmp_path / "retrieval").exists()


class CountingData(PicturedData):
    """Leaves a file for every process that asks for a picture."""

    def gallery_image(self, stage: str, protocol_index: int, index: int) -> Image.Image:
        (self.root / f"asked-by-{os.getpid()}").touch()
        return super().gallery_image(stage, protocol_index, index)


@pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")
def test_two_ranks_draw_once_what_one_draws(tmp_path: Path) -> None:
    for name, options in (("one", {}), ("two", {"strategy": "ddp_fork", "devices": 2})):
        data = CountingData(tmp_path / name)
        evaluate(tmp_path / name, data, RetrievalFigures(samples=3), QueryResults(), **options)
        assert len(list((tmp_path / name).glob("asked-by-*"))) == 1
    one, two = ((tmp_path / name / "retrieval" / "validate" / "val.jpg").read_bytes() for name in ("one", "two"))
    assert one == two


def test_odd_captions_and_pictures_can_be_drawn(tmp_path: Path) -> None:
    wide, tall = Image.new("RGB", (900, 30), "red"), Image.new("L", (10, 400), 128)
    row = Shown([wide, tall], [0.5, float("-inf")], [True, False], 0)
    panel = QueryPanel("query 1", "$x^{ costs <b> $5 " + "long " * 60, [(0, 4), (0, 12)], wide, None, {"composed": row})
    for count in (0, 1, 3):
        figure = draw_sheet("$title", [panel] * count, "a note\nanother")
        figure.savefig(tmp_path / "odd.jpg")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("not ranked") == 3 and "✓ 0.500" in texts


def test_ordinal_numbers() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 100, 101, 111)] == [
        "st", "nd", "rd", "th", "th", "th", "th", "st", "th", "st", "th",
    ]  # fmt: skip
