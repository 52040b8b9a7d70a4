"""A folder of photos and a model server, as docs/synthesis.md tells it: every stage by itself."""

import json
import random
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contextcir.synthesis.store import read_stage
from data_modules import Manifest
from experiments.synthesize import BUDGET_SPENT, STAGES, main
from tests.helpers.make_data import preprocess
from tests.helpers.model_server import ModelServer
from tests.helpers.scenes_flags import CONFIGS

COLOURS = ["red", "green", "blue", "yellow", "brown", "white"]
THINGS = ["dog", "table", "lamp", "horse", "window", "boat"]
OVERLAY = """
pairs:
  init_args:
    encoder:
      init_args: {{model: "local-dir:{clip}", pretrained: null}}
    loading: {{workers: 0}}
    band: {{low: -1.0, high: 1.0}}
filters:
  - contextcir.synthesis.filters.base.Length
  - contextcir.synthesis.filters.base.Language
  - contextcir.synthesis.filters.repeats.LeaksNothing
  - class_path: contextcir.synthesis.filters.base.Consistent
    init_args:
      consistency:
        class_path: contextcir.synthesis.filters.consistency.ClipConsistency
        init_args: {{model: "local-dir:{clip}", pretrained: null, margin: -1.0, slack: 2.0}}
"""


def drawn(said: str) -> random.Random:
    return random.Random(blake2b(said.encode(), digest_size=8).digest())


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Describe an image by its bytes; ask for a change by the two descriptions."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    choose = drawn("".join(urls) or json.dumps(contents))
    if urls:
        objects = [{"object": thing, "descriptors": [choose.choice(COLOURS)]} for thing in choose.sample(THINGS, 3)]
        return {"objects": objects}
    caption = f"Paint the {choose.choice(THINGS)} {choose.choice(COLOURS)} and add a {choose.choice(THINGS)}."
    return {"texts": [{"caption": caption, "changes": ["colour", "thing"]}]}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty images of coloured blocks, in two folders."""
    generator = np.random.default_rng(0)
    for number in range(30):
        blocks = generator.integers(0, 256, (6, 8, 3), np.uint8)
        path = tmp_path / "photos" / f"trip {number % 2}" / f"IMG_{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks).resize((80, 60), Image.Resampling.NEAREST).save(path)
    return tmp_path / "photos"


def flags(photos: Path, out: Path, url: str, clip: Path) -> list[str]:
    overlay = photos.parent / "small.yaml"
    overlay.write_text(OVERLAY.format(clip=clip))
    return [
        f"--config={CONFIGS / 'synthesis' / 'photos.yaml'}",
        f"--config={overlay}",
        f"--images={photos}",
        f"--out={out}",
        f"--model.url={url}",
        "--duplicates.per_run=null",
        "--write.exports+=contextcir.synthesis.outputs.exports.LaSCo",
    ]


def test_photos_and_a_server_become_a_manifest(
    photos: Path, tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("spacy", reason="needs spaCy, which finds the phrases")
    pytest.importorskip("faiss", reason="needs faiss, which finds the pairs")
    out = tmp_path / "out"
    with ModelServer(answer) as server:
        given = flags(photos, out, server.url, clip_folder)
        for stage in STAGES:
            main([*given, f"--stage={stage}"])
        asked = len(server.asked)
        main(given)
        assert len(server.asked) == asked and not server.paid_twice()
    pairs = list(read_stage(out, "pairs"))
    references = {pair["reference"] for pair in pairs}
    assert pairs and asked == len(references) + 2 * len(pairs)
    kept = sum(record["reason"] is None for record in read_stage(out, "filter"))
    data = Manifest(photos, file=str(out / "manifest" / "{split}.jsonl"), val_splits=[], test_splits=[], **LOADING)
    records = data.read_training().records
    assert len(records) == kept == len(pairs)  # so few images are one group, so all of them are in train
    assert all(record.phrases for record in records)
    assert sum(len(batch.target) for batch in data.train_dataloader()) > 0
    assert (out / "exports" / "lasco" / "downloads" / "lasco_train.json").is_file()
    assert f"{kept:,} triplets" in (out / "manifest" / "card.md").read_text()
    assert "samples.html" in capsys.readouterr().out


def test_a_budget_holds_over_restarts_and_a_larger_one_goes_on(
    photos: Path, tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss", reason="needs faiss, which finds the pairs")
    with ModelServer(answer) as server:
        given = flags(photos, tmp_path / "out", server.url, clip_folder)
        main([*given, "--stage=pairs"])
        for _ in range(2):  # the second time nothing is left
            with pytest.raises(SystemExit) as stopped:
                main([*given, "--stage=describe", "--model.budget.requests=4"])
            assert stopped.value.code == BUDGET_SPENT and len(server.asked) == 4
        assert "has no room for one more request" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*given, "--stage=describe", "--model.budget.requests=6"])
        assert len(server.asked) == 6 and not server.paid_twice()


LOADING: dict[str, int | Callable] = {"num_workers": 0, "batch_size": 4, "preprocess": preprocess}
