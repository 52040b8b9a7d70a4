"""Consistency by a CLIP: figures against plain loops, reasons, restarts that change nothing, and images that fail."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.errors import MissingFileError
from contextcir.synthesis.filters import verdicts as verdicts_module
from contextcir.synthesis.filters.base import Consistent
from contextcir.synthesis.filters.clip_embeddings import ClipEmbeddings
from contextcir.synthesis.filters.consistency import ClipConsistency, measure
from contextcir.synthesis.filters.repeats import Duplicates
from contextcir.synthesis.filters.verdicts import FilterStage
from contextcir.synthesis.records import Description, Instruction, Pair
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import Shard, read_stage, shard_path
from tests.helpers.make_data import write_image

WORDS = ["red", "dog", "cat", "blue", "star", "moon", "left", "table", "lamp", "green"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs, descriptions and texts: 40 of each; images of one colour in ``photos``."""
    pairs = []
    for n in range(40):
        images = (f"r{n % 7}.png", f"sub/t{n % 11}.png", f"n{n % 5}.png")
        pairs.append(Pair(f"k{n:02}", images[0], images[1], images if n % 2 else ()))
    texts = [Instruction(f"{p.key}#0", p.key, f"a {WORDS[n % 10]} {WORDS[n // 4]}", 1) for n, p in enumerate(pairs)]
    described = [Description(pair.key, (), ()) for pair in pairs]
    for stage, records in (("pairs", pairs), ("describe", described), ("instruct", texts)):
        with Shard(shard_path(tmp_path / "run", stage, 0, 1)) as shard:
            shard.append([record.to_json() for record in records])
    for image in {image for pair in pairs for image in (pair.reference, pair.target, *pair.image_set)}:
        write_image(tmp_path / "photos" / image, image)
    return tmp_path / "run"


@pytest.fixture
def rule(clip_folder: Path) -> ClipConsistency:
    """The filter with a CLIP of random weights."""
    return ClipConsistency(f"local-dir:{clip_folder}", None, batch_size=4, workers=2)


def records(folder: Path) -> tuple[list[Pair], list[Instruction]]:
    pairs = {record["key"]: Pair.from_json(record) for record in read_stage(folder, "pairs")}
    texts = [Instruction.from_json(record) for record in read_stage(folder, "instruct")]
    return [pairs[text.pair] for text in texts], texts


def test_figures_are_those_of_the_formula(folder: Path, rule: ClipConsistency) -> None:
    pairs, texts = records(folder)
    rule.begin(folder, folder.parent / "photos")
    found = rule.score(pairs, [text.caption for text in texts])
    backbone = OpenCLIPBackbone(rule.model, None).eval()

    def unit(vector: torch.Tensor) -> np.ndarray:
        return (vector / vector.norm()).detach().double().numpy()[0]

    def image(path: str) -> np.ndarray:
        loaded = Image.open(folder.parent / "photos" / path).convert("RGB")
        return unit(backbone.encode_image(backbone.preprocess(loaded)[None]).embedding)

    captions = [unit(backbone.encode_text(backbone.tokenizer([text.caption])).embedding) for text in texts]
    mean = sum(captions) / len(captions)

    def cos(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / math.sqrt(one @ one) / math.sqrt(other @ other))

    for pair, caption, scores in zip(pairs, captions, found, strict=True):
        reference, target = image(pair.reference), image(pair.target)
        direction = cos(caption - mean, target - reference)
        assert scores["direction"] == pytest.approx(direction, abs=0.02)  # embeddings lie in half precision
        if pair.image_set:
            best = cos(caption - mean, image(pair.image_set[2]) - reference)
            assert scores["lead"] == pytest.approx(direction - best, abs=0.04)
        else:
            assert "lead" not in scores
    assert len({scores["direction"] for scores in found}) > 20


@given(arrays(np.float64, (4, 3), elements=st.integers(-9, 9).map(float)))
def test_figures_are_bounded_and_a_mirrored_pair_has_the_opposite_direction(vectors: np.ndarray) -> None:
    text, reference, target, other = vectors
    scores = measure(text, reference, target, other)
    assert -1 <= scores["direction"] <= 1 and -2 <= scores["lead"] <= 2
    assert measure(text, target, reference) == {"direction": -scores["direction"]}
    assert measure(text, reference, target, target)["lead"] == 0


def test_reasons() -> None:
    rule = ClipConsistency(margin=0.1, slack=0.2)
    assert rule.reason({"direction": -0.01}) == "fits the reference"
    assert rule.reason({"direction": 0.0, "lead": 1.0}) == rule.reason({"direction": 0.09}) == "does not move"
    assert rule.reason({"direction": 0.1, "lead": -0.21}) == "fits a neighbour"
    assert rule.reason({"direction": 0.1, "lead": -0.2}) is None and rule.reason({"direction": 0.3}) is None
    assert rule.reason({}) == "unreadable image"
    for wrong in ({"batch_size": 0}, {"slack": -1.0}, {"margin": 1.0}, {"workers": 0}):
        with pytest.raises(ValueError, match=rf"\(filters\.consistency\.{next(iter(wrong))}\)"):
            ClipConsistency(**wrong)


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((folder / "filter").glob("*.jsonl")))


def again(rule: ClipConsistency) -> list[Consistent]:
    return [Consistent(ClipConsistency(rule.model, None, batch_size=4, workers=2))]


def test_a_kill_changes_nothing(folder: Path, rule: ClipConsistency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts_module, "BATCH", 9)
    photos, run = folder.parent / "photos", Run(folder)
    tally = FilterStage(again(rule), Duplicates(None), photos).run(run)
    assert tally.done + tally.failed.total() == 40 and tally.done and len(tally.failed) >= 2
    whole = contents(folder)
    (marks,) = (folder / "filter-images").rglob("done.bin")
    shard = folder / "filter" / "00000-of-00001.jsonl"
    for share in (0.0, 0.3, 0.8):
        shard.write_bytes(whole[: int(share * len(whole))])
        marked = np.fromfile(marks, np.uint64)
        marked[int(share * len(marked)) :: 2] = 0  # images whose embeddings were not there yet
        marked.tofile(marks)
        FilterStage(again(rule), Duplicates(None), photos).run(run)
        assert contents(folder) == whole


def test_shards_say_the_same(folder: Path, rule: ClipConsistency) -> None:
    photos = folder.parent / "photos"
    FilterStage(again(rule), Duplicates(None), photos).run(Run(folder))
    reasons = {record["key"]: record["reason"] for record in read_stage(folder, "filter")}
    (folder / "filter" / "00000-of-00001.jsonl").unlink()
    for index in range(3):
        FilterStage(again(rule), Duplicates(None), photos).run(Run(folder, index, 3))
    assert {record["key"]: record["reason"] for record in read_stage(folder, "filter")} == reasons


def test_images_are_embedded_once(folder: Path, rule: ClipConsistency, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = ClipEmbeddings._load
    monkeypatch.setattr(ClipEmbeddings, "_load", lambda self, path: loaded.append(path) or load(self, path))
    FilterStage(again(rule), Duplicates(None), folder.parent / "photos").run(Run(folder))
    assert len(loaded) == len(set(loaded)) == 7 + 11 + 5
    (folder / "filter" / "00000-of-00001.jsonl").unlink()
    write_image(folder.parent / "photos" / "r3.png", "another picture", (50, 30))
    FilterStage(again(rule), Duplicates(None), folder.parent / "photos").run(Run(folder))
    assert loaded[23:] == ["r3.png"]


def test_an_image_that_cannot_be_read_is_a_reason(folder: Path, rule: ClipConsistency) -> None:
    (folder.parent / "photos" / "r0.png").write_bytes(b"no image")
    (folder.parent / "photos" / "n1.png").unlink()
    tally = FilterStage(again(rule), Duplicates(None), folder.parent / "photos").run(Run(folder))
    pairs, _ = records(folder)
    touched = [pair for pair in pairs if pair.reference == "r0.png" or "n1.png" in pair.image_set]
    assert tally.failed["unreadable image"] == len(touched) > 4


def test_too_few_texts_are_told(folder: Path, rule: ClipConsistency) -> None:
    shard = shard_path(folder, "instruct", 0, 1)
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:31]))
    with pytest.raises(ValueError, match=r"31 texts .* too few .* remove the filter \(filters\)"):
        FilterStage(again(rule), Duplicates(None), folder.parent / "photos").run(Run(folder))


def test_the_error_of_a_model_names_the_setting_of_the_filter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingFileError("no folder /nowhere", setting="model.backbone.model")

    monkeypatch.setattr("contextcir.encoders.backbone.OpenCLIPBackbone", missing)
    wrong = [Consistent(ClipConsistency("local-dir:/nowhere", None))]
    with pytest.raises(MissingFileError) as caught:
        FilterStage(wrong, Duplicates(None), folder.parent / "photos").run(Run(folder))
    assert caught.value.setting == "filters.consistency.model"
