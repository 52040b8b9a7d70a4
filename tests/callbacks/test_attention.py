"""Heat maps of the attention callback and the score that it logs, on attention whose peaks are known."""

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from callbacks import AttentionFigures
from callbacks.figures import PhraseFigure, displayable, draw_query
from callbacks.spans import owners, underlines, wrap
from tests.helpers.toy_evaluation import NAN, QUERIES, ToyData, ToyModule, caption

pytestmark = pytest.mark.all_figures

# The first phrase is in all 7 captions and always on its object, the second in the 4 even ones and never on it.
# A map is 1 at its peak and 0.1 on the 15 other patches.
EXPECTED = {
    "pointing_game": 100 * 7 / 11,
    "pointing_game_chance": 100 * (7 * 1 / 16 + 4 * 2 / 16) / 11,
    "attention_inside": 100 * (7 * 1.0 / 2.5 + 4 * 0.2 / 2.5) / 11,
    "attention_inside_chance": 100 * (7 * 1 / 16 + 4 * 2 / 16) / 11,
}


class ImageRecorder(WandbLogger):
    """Keeps what is sent as images; there is no W&B behind it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[str], list[str]]] = []
        self._logged_metrics: list[dict[str, float]] = []

    name = version = save_dir = None

    def log_image(self, key: str, images: list[str], step: int | None = None, **options: list[str]) -> None:
        self.sent.append((key, images, options["caption"]))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._logged_metrics.append(metrics)

    def log_hyperparams(self, params: Any) -> None:
        pass

    def log_graph(self, model: Any) -> None:
        pass

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        pass

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        pass


class CountingData(ToyData):
    """Leaves a file for every process that asks for a target image."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def target_image(self, stage: str, protocol_index: int, index: int) -> Image.Image | None:
        (self.folder / f"asked-by-{os.getpid()}").touch()
        return super().target_image(stage, protocol_index, index)


def make_trainer(folder: Path, callback: AttentionFigures, **options: Any) -> Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 4,
        "default_root_dir": folder,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": -1,
        "callbacks": [callback],
    }
    return Trainer(**(defaults | options))


def drawn(folder: Path) -> dict[str, list[str]]:
    return {
        epoch.name: sorted(file.name for file in epoch.iterdir()) for epoch in sorted((folder / "attention").iterdir())
    }


def test_the_same_queries_are_drawn_every_n_epochs_and_sent_to_wandb(tmp_path: Path) -> None:
    data, logger = ToyData(), ImageRecorder()
    make_trainer(tmp_path, AttentionFigures(every_n_epochs=2, samples=3), logger=logger).fit(
        ToyModule(), datamodule=data
    )
    names = ["query_100.png", "query_103.png", "query_106.png"]
    assert drawn(tmp_path) == {"epoch_001": names, "epoch_003": names}
    assert data.asked == [[0, 3, 6]] * 2
    for file in (tmp_path / "attention" / "epoch_001").iterdir():
        with Image.open(file) as picture:
            assert picture.format == "PNG" and picture.width > 500
    for (key, images, _), folder in zip(logger.sent, ("epoch_001", "epoch_003"), strict=True):
        assert key == "val_attention" and len({image.size for image in images}) == 1, "W&B warns of other sizes"
        for image, name in zip(images, names, strict=True):
            with Image.open(tmp_path / "attention" / folder / name) as picture:
                corner = image.crop((0, 0, *picture.size))
                assert corner.tobytes() == picture.convert("RGB").tobytes()
    assert len(logger.sent) == 2
    assert logger.sent[0][2] == [caption(index, True) for index in (0, 3, 6)]


def test_the_pointing_game_is_logged_for_every_protocol_and_saved_at_the_end(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, AttentionFigures(samples=0))
    trainer.fit(ToyModule(), datamodule=ToyData())
    for split in ("val", "hard"):
        for name, value in EXPECTED.items():
            assert trainer.callback_metrics[f"{split}_{name}"].item() == pytest.approx(value, abs=1e-3)
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert list(results) == ["fit_end"] and results["fit_end"]["hard"] == pytest.approx(EXPECTED, abs=1e-3)
    assert not (tmp_path / "attention").exists()


def test_test_and_validate_draw_into_their_own_folders(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, AttentionFigures(samples=20))
    trainer.test(ToyModule(), datamodule=ToyData(), verbose=False)
    trainer.validate(ToyModule(), datamodule=ToyData(labelled=False), verbose=False)
    everyone = [f"query_{100 + query}.png" for query in range(QUERIES)]
    assert drawn(tmp_path) == {"test": everyone, "validate": everyone}
    assert trainer.callback_metrics["val_pointing_game"].item() == pytest.approx(EXPECTED["pointing_game"], abs=1e-3)


@pytest.mark.skipif(platform.system() == "Darwin", reason="forked ranks are flaky on macOS")
def test_two_ranks_draw_once_and_score_the_same_as_one(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, AttentionFigures(samples=1), strategy="ddp_fork", devices=2, max_epochs=1)
    trainer.fit(ToyModule(), datamodule=CountingData(tmp_path))
    assert drawn(tmp_path) == {"epoch_000": ["query_100.png"]}
    assert len(list(tmp_path.glob("asked-by-*"))) == 1
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert results["fit_end"]["val"] == pytest.approx(EXPECTED, abs=1e-3)


@pytest.mark.parametrize("missing", ["phrases", "boxes"])
def test_without_phrases_or_boxes_there_are_figures_but_no_score(tmp_path: Path, missing: str) -> None:
    trainer = make_trainer(tmp_path, AttentionFigures(samples=2))
    trainer.validate(ToyModule(), datamodule=ToyData(**{missing: False}), verbose=False)
    assert not any("pointing" in name for name in trainer.callback_metrics)
    assert drawn(tmp_path) == {"validate": ["query_100.png", "query_106.png"]}
    assert not (tmp_path / "metrics.json").exists()


def test_a_fusion_without_maps_is_reported_once(tmp_path: Path, caplog) -> None:
    with caplog.at_level("INFO"):
        trainer = make_trainer(tmp_path, AttentionFigures())
        trainer.fit(ToyModule(with_maps=False), datamodule=ToyData())
    assert caplog.text.count("no attention figures") == 1
    assert list(tmp_path.iterdir()) == [] and not any("pointing" in name for name in trainer.callback_metrics)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"from 1 on, got 0 \(trainer.callbacks.AttentionFigures.every_n_epochs\)"):
        AttentionFigures(every_n_epochs=0)


@settings(deadline=None, max_examples=100)
@given(st.text(alphabet="ab ,", max_size=60), st.lists(st.integers(0, 60), max_size=6), st.integers(5, 30))
def test_a_wrapped_caption_keeps_every_character_and_its_phrase(text: str, cuts: list[int], width: int) -> None:
    cuts = sorted({min(cut, len(text)) for cut in cuts})
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    heat, box = torch.zeros(1, 1), torch.zeros(4)
    lines = wrap(text, [PhraseFigure(a, b, heat, box) for a, b in spans], width)
    if not text:
        assert lines == [[("(blank caption)", None)]]
        return
    characters = [(letter, phrase) for line in lines for piece, phrase in line for letter in piece]
    owner = [next((n for n, (a, b) in enumerate(spans) if a <= i < b), None) for i in range(len(text))]
    assert characters == list(zip(text, owner, strict=True))
    assert all(sum(len(piece) for piece, _ in line) <= width + 1 for line in lines)


def test_normalisation_is_undone_for_display() -> None:
    picture = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    normalise = Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    shown = displayable(normalise(picture)[None], Compose([ToTensor(), normalise]))
    torch.testing.assert_close(shown[0], picture)
    assert displayable(2 * picture[None], None).max() == 1


def test_odd_captions_and_phrases_can_be_drawn(tmp_path: Path) -> None:
    """Dollar signs are no formulas, a phrase that was cut off has no panel, and a flat map is no division by zero."""
    heat = {"flat": torch.full((2, 2), 0.25), "cut off": torch.full((2, 2), NAN)}
    text = "$x^{ costs $5, снимок " + "long " * 60
    phrases = [PhraseFigure(0, 12, heat["flat"], torch.full((4,), NAN))] * 7
    phrases += [PhraseFigure(13, 19, heat["cut off"], torch.tensor([0.0, 0.0, 1.0, 1.0]))]
    figure = draw_query(torch.rand(3, 8, 8), None, text, phrases, "title")
    titles = [axis.get_title() for axis in figure.axes if axis.axison]
    assert titles == ["reference", *["$x^{ costs $"] * 7]
    figure.savefig(tmp_path / "odd.png")
    assert len(draw_query(torch.rand(3, 8, 8), None, "", [], "title").axes) == 1


def test_all_maps_of_a_figure_have_one_scale_with_a_bar_and_a_legend() -> None:
    """A map twice as far from even is brighter, and the bar ends with the highest and the lowest multiple."""
    even, peaked = torch.full((2, 2), 0.25), torch.tensor([[0.7, 0.1], [0.1, 0.1]])
    box = torch.tensor([0.0, 0.0, 0.5, 0.5])
    phrases = [PhraseFigure(0, 3, even, box), PhraseFigure(4, 7, peaked, torch.full((4,), NAN))]
    figure = draw_query(torch.full((3, 16, 16), 0.5), None, "one two", phrases, "title")
    shown = [axis.images[0].get_array() for axis in figure.axes[1:3]]
    assert shown[0].std(axis=(0, 1)).max() < 1e-6  # an even map has one colour, which is not that of its own maximum
    assert shown[1][0, 0].sum() > shown[0][0, 0].sum() > shown[1][-1, -1].sum()
    texts = [text.get_text() for text in figure.axes[-1].texts]
    assert {"maximum", "object", "attention, 1 = even", "0.40", "2.8"} <= set(texts)
    without = draw_query(torch.full((3, 16, 16), 0.5), None, "one two", phrases[1:], "title")
    assert "object" not in [text.get_text() for text in without.axes[-1].texts]


def test_titles_of_panels_are_broken_and_not_cut() -> None:
    words = "the dog in the photograph with the extraordinarily long title"
    phrase = PhraseFigure(0, len(words), torch.rand(2, 2), torch.full((4,), NAN))
    figure = draw_query(torch.rand(3, 8, 8), None, words, [phrase], "title")
    title = figure.axes[1].get_title()
    assert title.replace("\n", " ") == words and max(map(len, title.split("\n"))) <= 24


@st.composite
def nested_spans(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Spans of which any two are apart, equal, or one inside the other, as noun phrases are."""
    spans: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(0, 6))):
        start, end = sorted((draw(st.integers(0, 20)), draw(st.integers(0, 20))))
        apart_or_inside = (
            end <= a or b <= start or (a <= start and end <= b) or (start <= a and b <= end) for a, b in spans
        )
        if start < end and all(apart_or_inside):
            spans.append((start, end))
    return draw(st.permutations(spans))


@settings(deadline=None)
@given(nested_spans())
def test_a_character_has_the_colour_of_the_innermost_phrase_around_it(spans: list[tuple[int, int]]) -> None:
    owner = owners(20, spans)
    for place in range(20):
        around = [(end - start, number) for number, (start, end) in enumerate(spans) if start <= place < end]
        assert owner[place] == (min(around)[1] if around else None)
    under = underlines([[("x" * 12, None)], [("x" * 8, None)]], spans)
    marked = {(number, 12 * line + column) for line, strokes in enumerate(under) for a, b, number, _ in strokes
              for column in range(a, b)}  # fmt: skip
    holders = {
        number for number, (a, b) in enumerate(spans) if any(a <= c and d <= b and d - c < b - a for c, d in spans)
    }
    assert marked == {(number, place) for number in holders for place in range(*spans[number])}
