"""Files of features: read as they were written, and refused for what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from contextcir.embedders import FeaturesFile
from contextcir.embedders.features_file import FORMAT, write_features
from contextcir.errors import InputError, MissingFileError

NAMES = st.lists(
    st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable()), min_size=1, max_size=6, unique=True
)
TOLD = {"name": "a model", "revision": "7", "licence": None, "instruction": "Find.", "template": "x {text}", "more": 1}


@settings(max_examples=25, deadline=None)
@given(NAMES, NAMES, st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_a_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, images: list[str], queries: list[str], dtype: torch.dtype
) -> None:
    path = tmp_path_factory.mktemp("features") / "f.safetensors"
    gallery, query = torch.randn(len(images), 3).to(dtype), torch.randn(len(queries), 3).to(dtype)
    write_features(path, TOLD, (images, gallery), {"ids": queries, "query": query, "text": -query})
    file = FeaturesFile(path)
    assert (file.name, file.revision, file.licence, file.instruction) == ("a model", "7", None, "Find.")
    assert file.template == "x {text}" and file.dimension == 3 and file.parts == ("text",)
    assert file.settings()["settings"] == {"more": 1}
    assert torch.equal(file.rows("gallery", images[::-1]), gallery.float().flip(0))
    assert torch.equal(file.rows("text", queries), -query.float())
    file.require("query", queries)


def write(path: Path, tensors: dict[str, torch.Tensor] | None = None, **told: Any) -> Path:
    """Write a file of two images and two queries, or a wrong one."""
    ids = {"gallery_ids": json.dumps(["a", "b"]), "query_ids": json.dumps(["val/1", "val/2"])}
    metadata = {"format": FORMAT, "name": "m", **ids, **told}
    right = {"gallery": torch.ones(2, 4), "query": torch.ones(2, 4)}
    save_file({**right, **(tensors or {})}, path, {k: v for k, v in metadata.items() if v is not None})
    return path


@pytest.mark.parametrize(
    ("tensors", "told", "words"),
    [
        ({"query": torch.ones(2, 5)}, {}, "embeddings of 5 numbers, 4 in gallery"),
        ({"query": torch.ones(3, 4)}, {}, "a row for each of 2 ids, got a tensor of 3 x 4"),
        ({"query": torch.ones(2, 4, dtype=torch.int64)}, {}, "expected floats"),
        ({"other": torch.ones(2, 4)}, {}, "has a tensor 'other'"),
        (None, {"format": "x"}, f"expected {FORMAT}"),
        (None, {"name": None}, "no name of the model"),
        (None, {"gallery_ids": None}, "list of texts as gallery_ids"),
        (None, {"query_ids": "[1, 2]"}, "list of texts as query_ids"),
        (None, {"query_ids": "[1, 2"}, "not valid JSON"),
        (None, {"template": "no place"}, "expected a text with {text}"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, tensors: Any, told: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        FeaturesFile(write(tmp_path / "f.safetensors", tensors, **told))
    assert "\n" not in str(refused.value)


def test_what_is_no_file_of_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no file"):
        FeaturesFile(tmp_path / "none")
    (tmp_path / "f").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="no file of safetensors"):
        FeaturesFile(tmp_path / "f")


def test_rows_that_rank_nothing_are_named(tmp_path: Path) -> None:
    bad = torch.tensor([[1.0, float("nan"), 0, 0], [0, 0, 0, 0]])
    twice = json.dumps(["a", "a"])
    file = FeaturesFile(write(tmp_path / "f.safetensors", {"gallery": bad}, gallery_ids=twice))
    assert file.problems("gallery") == [
        "gallery: 1 ids stand twice or more, the first is 'a'",
        "gallery: 1 rows hold NaN or infinity, the first is 'a'",
        "gallery: 1 rows are all zeros, the first is 'a'",
    ]
    with pytest.raises(InputError, match="stand twice"):
        file.require("gallery", ["a"])
    with pytest.raises(InputError, match="lacks 1 of 2 queries, the first is 'val/3'"):
        file.require("query", ["val/1", "val/3"])
