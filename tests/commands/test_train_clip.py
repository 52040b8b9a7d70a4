"""The command that makes the small CLIP: what it draws, and that it runs through."""

from pathlib import Path

import numpy as np
import pytest

from contextcir import assets
from experiments.clip.__main__ import Batches, Phase, train_clip
from experiments.clip.scenes import IMAGES_PER_BASE, draw_edited, draw_looks, make_pool


def test_looks_differ_from_their_reference_in_the_shape_or_fill_of_one_object() -> None:
    for number in range(20):
        scenes, edits, pixels = draw_looks(3, number)
        assert len(scenes) == len(edits) == len(pixels) == IMAGES_PER_BASE
        assert len({scene.seen_as for scene in scenes}) == IMAGES_PER_BASE
        for scene in scenes[1:]:
            pairs = list(zip(scenes[0].objects, scene.objects, strict=True))
            changed = [(old, new) for old, new in pairs if old != new]
            ((old, new),) = changed
            assert (old.size, old.colour, old.cell) == (new.size, new.colour, new.cell)
            assert (old.shape != new.shape) != (old.fill != new.fill)


def test_a_story_tells_the_reference_and_what_is_different() -> None:
    pool = make_pool(draw_edited, 3, 0, 1, 1)
    rng = np.random.default_rng(0)
    stories = {row: pool.story(rng, row) for row in range(IMAGES_PER_BASE)}
    told = [row for row, edits in enumerate(pool.edits) if edits and ". " in stories[row]]
    assert told and 0 not in told
    assert all(stories[row].split(". ")[0].count(" ") > 3 for row in told)


@pytest.mark.slow
def test_all_phases_run_and_leave_a_model_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.clip.model.DRAWN", 100)
    short = Phase(2, warmup=1)
    naming = Phase(2, warmup=1, naming=1.0)
    few = Batches(size=16, per_base=4)
    train_clip(short, short, naming, few, 4, 4, threads=1, save_every=2, held_out_bases=3, out=tmp_path)
    printed = capsys.readouterr().out
    assert "edited: step 2" in printed and "looks: step 2" in printed and "names: step 2" in printed
    state, rows = assets.packed_state(tmp_path)
    settings = assets.config()["model_cfg"]
    assert state[assets.TOKEN_TABLE].shape == (len(rows), settings["text_cfg"]["width"])
    assert state["text_projection"].shape[1] == settings["embed_dim"]
