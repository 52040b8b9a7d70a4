"""The small CLIP: packing, unpacking, and that what is shipped knows scenes."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional

from contextcir import assets
from contextcir.encoders.backbone import OpenCLIPBackbone
from data_modules.scenes.records import draw_base
from data_modules.scenes.render import render
from data_modules.scenes.wording import describe
from tests.helpers import tiny


def test_packed_weights_come_back_with_zero_rows_for_other_words(tmp_path: Path) -> None:
    packed, cache = tmp_path / "packed", tmp_path / "cache"
    packed.mkdir()
    (packed / "scenes_vit.json").write_text(json.dumps({"model_cfg": tiny.CONFIG, "preprocess_cfg": {}}))
    state, rows = tiny.clip().state_dict(), [320, 1125, 49406, 49407]
    whole = state["token_embedding.weight"]
    assets.pack({**state, "token_embedding.weight": whole[rows]}, rows, packed)
    folder = assets.unpack(folder=packed, cache=cache)
    loaded = open_clip.create_model(f"local-dir:{folder}").state_dict()
    expected = torch.zeros_like(whole)
    expected[rows] = whole[rows].half().float()
    torch.testing.assert_close(loaded["token_embedding.weight"], expected, rtol=0, atol=0)
    for name, value in state.items():
        if name != "token_embedding.weight":
            torch.testing.assert_close(loaded[name], value.half().float(), rtol=0, atol=0)
    assert assets.unpack(folder=packed, cache=cache) == folder
    assert [path.name for path in cache.iterdir()] == [folder.name], "staging folders are left behind"


def test_missing_weights_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"scenes_vit.safetensors: is missing: .*experiments.clip"):
        assets.unpack(folder=tmp_path, cache=tmp_path / "cache")


def test_the_shipped_weights_fit_into_eight_megabytes() -> None:
    assert (Path(assets.__file__).parent / "scenes_vit.safetensors").stat().st_size <= 8_000_000


@torch.no_grad()
def test_the_shipped_clip_tells_scenes_apart_by_their_descriptions() -> None:
    backbone = OpenCLIPBackbone(assets.EMBEDDED)
    rng = np.random.default_rng(0)
    pictures = [draw_base(1000, "val", number).pictures[0] for number in range(64)]
    images = torch.stack([backbone.preprocess(image_of(picture)) for picture in pictures])
    texts = [describe(rng, picture.scene, omit=0.0) for picture in pictures]
    image = functional.normalize(backbone.encode_image(images).embedding, dim=-1)
    text = functional.normalize(backbone.encode_text(backbone.tokenizer(texts)).embedding, dim=-1)
    found = ((text @ image.T).argmax(1) == torch.arange(64)).float().mean()
    assert found > 0.9  # of 64 scenes by chance: 0.016


def image_of(picture: object) -> object:
    from PIL import Image

    placed, rng = picture.place()
    return Image.fromarray(render(picture.scene, placed, rng))


def test_a_home_that_can_not_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"can't be unpacked: Not a directory; make room, or set XDG_CACHE_HOME"):
        assets.unpack()
