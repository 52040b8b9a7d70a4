"""The text tower of short descriptions: what it reads is true, and its image tower is that of the default."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from contextcir import assets
from contextcir.encoders.backbone import OpenCLIPBackbone
from data_modules.scenes.graph import COLOURS, SHAPES, random_scene
from experiments.clip.__main__ import Phase
from experiments.clip.binding import binding
from experiments.clip.plain import clause, draw_plain, pair_of_objects
from experiments.clip.scenes import make_pool
from experiments.clip.short import train_short


def test_a_clause_names_objects_of_the_scene_or_its_background() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = random_scene(rng)
        text = clause(rng, scene)
        words = text.split()
        shown = {(item.colour, item.shape) for item in scene.objects}
        named = [(a, b) for a, b in pairwise(words) if a in COLOURS and b in SHAPES]
        assert len(named) <= 2
        assert set(named) <= shown
        assert named or scene.background in text
        assert len(words) <= 22


def test_every_image_of_a_pool_of_plain_scenes_is_of_another_scene() -> None:
    pool = make_pool(draw_plain, 3, 0, 30, 1, each=1)
    assert len(pool.images) == len({scene.seen_as for scene in pool.scenes}) == 30
    assert not np.array_equal(pool.images[0], pool.images[1])


def test_objects_that_are_compared_differ_in_colour_and_shape() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene, first, second = pair_of_objects(rng)
        assert {first, second} <= set(scene.objects)
        assert first.colour != second.colour and first.shape != second.shape


@torch.no_grad()
def test_an_encoder_without_order_can_not_bind_attributes() -> None:
    """The exchanged text has the same words: their sum is the same, and no case is right."""
    vectors: dict[str, torch.Tensor] = {}

    def embed(texts: list[str]) -> torch.Tensor:
        for word in sorted({word for text in texts for word in text.split()}):
            vectors.setdefault(word, torch.randint(-9, 9, (8,)).double())
        return torch.stack([sum(vectors[word] for word in text.replace("an ", "a ").split()) for text in texts])

    vectors["a"] = torch.zeros(8).double()

    class Encoded:
        def __init__(self, images: torch.Tensor) -> None:
            self.embedding = torch.ones(len(images), 8).double()

    assert set(binding(Encoded, embed, 0, cases=20).values()) == {0.0}


def test_both_embedded_models_have_one_image_tower_and_two_text_towers() -> None:
    ours, short = OpenCLIPBackbone(assets.EMBEDDED).clip, OpenCLIPBackbone(assets.SHORT).clip
    for name, value in ours.visual.state_dict().items():
        assert torch.equal(value, short.visual.state_dict()[name]), name
    assert not torch.equal(ours.text_projection, short.text_projection)


@pytest.mark.slow
def test_the_command_leaves_a_text_tower_for_the_image_tower_of_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.clip.model.DRAWN", 100)
    monkeypatch.setattr("experiments.clip.short.HELD_OUT", 3)
    train_short(Phase(2, warmup=1), size=8, scenes=16, threads=1, out=tmp_path)
    assert "attributes bound" in capsys.readouterr().out
    (file,) = tmp_path.iterdir()
    assert file.name == "scenes_vit_short.safetensors"
    shipped = Path(assets.__file__).with_name("scenes_vit.safetensors")
    (tmp_path / shipped.name).write_bytes(shipped.read_bytes())
    state, rows = assets.packed_state(tmp_path, assets.SHORT)
    before, _ = assets.packed_state()
    assert state[assets.TOKEN_TABLE].shape[0] == len(rows) and state.keys() == before.keys()
    assert torch.equal(state["visual.proj"], before["visual.proj"])
    assert not torch.equal(state["text_projection"], before["text_projection"])
