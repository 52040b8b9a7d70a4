"""sentence-transformers in this process: a model that reads both parts at once, and one of two towers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from contextcir.embedders import SentenceTransformersEmbedder
from contextcir.embedders.rules import NormalisedSum
from contextcir.errors import InputError
from tests.helpers.photos import picture

library = pytest.importorskip("sentence_transformers")
pytest.importorskip("transformers")
PLAIN = {"precision": "float32", "device": "cpu"}
TEXTS = ["make it red", "two dogs instead of one, and a longer text", "night"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.tiny_sentences import write_towers, write_whole

    made = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    write_whole(made)
    write_towers(made / "towers")
    return made


def direct(model: Path, inputs: list[Any], prompt: str | None = None) -> torch.Tensor:
    """Return what the library itself gives, an input at a time."""
    loaded = library.SentenceTransformer(str(model), device="cpu", model_kwargs={"dtype": torch.float32})
    return torch.stack([loaded.encode([one], prompt=prompt, convert_to_tensor=True)[0] for one in inputs])


def test_a_query_of_image_and_text_is_what_the_library_makes_of_both(folder: Path) -> None:
    images = [picture(seed, (40 + 20 * seed, 30)) for seed in range(3)]
    model = SentenceTransformersEmbedder(
        str(folder / "whole"), instruction="Find it.", document_instruction="See.", template="Change: {text}",
        batch_tokens=60, batch_size=2, **PLAIN,
    )  # fmt: skip
    found = model.embed_query(images, TEXTS)
    inputs = [{"image": image, "text": f"Change: {text}"} for image, text in zip(images, TEXTS, strict=True)]
    torch.testing.assert_close(found, direct(folder / "whole", inputs, "Find it."), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        model.embed_image(images), direct(folder / "whole", list(images), "See."), atol=1e-4, rtol=1e-3
    )
    alone = model.embed_query([images[0], None], [None, TEXTS[1]])
    expected = direct(folder / "whole", [images[0], f"Change: {TEXTS[1]}"], "Find it.")
    torch.testing.assert_close(alone, expected, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(found, direct(folder / "whole", inputs), atol=1e-3)  # the instruction matters
    told = model.describe()
    assert told["dimension"] == 16 and told["instruction"] == "Find it." and told["revision"].startswith("sha256:")


def test_two_towers_are_composed_by_a_rule(folder: Path) -> None:
    images = [picture(seed) for seed in range(3)]
    model = SentenceTransformersEmbedder(str(folder / "towers"), rule=NormalisedSum(), **PLAIN)
    of_images, of_texts = direct(folder / "towers", list(images)), direct(folder / "towers", TEXTS)
    expected = (normalize(of_images, dim=-1) + normalize(of_texts, dim=-1)) / 2
    torch.testing.assert_close(model.embed_query(images, TEXTS), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.embed_image(images), of_images, atol=1e-4, rtol=1e-3)
    mixed = model.embed_query([None, images[1], images[2]], [TEXTS[0], None, TEXTS[2]])
    torch.testing.assert_close(mixed, torch.stack([of_texts[0], of_images[1], expected[2]]), atol=1e-4, rtol=1e-3)


def test_bf16_is_asked_for_and_near_float32(folder: Path) -> None:
    half = SentenceTransformersEmbedder(str(folder / "towers"), rule=NormalisedSum(), device="cpu")
    full = SentenceTransformersEmbedder(str(folder / "towers"), rule=NormalisedSum(), **PLAIN)
    images = [picture(0)]
    assert half.embed_image(images).dtype == torch.float32
    assert {weight.dtype for weight in half._loaded().parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half.embed_image(images), full.embed_image(images), atol=0.2, rtol=0.1)
    assert half.describe()["precision"] == "bfloat16"


def test_a_mistake_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't embed this"):  # two towers, and no rule
        SentenceTransformersEmbedder(str(folder / "towers"), **PLAIN).embed_query([picture(0)], ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="can't be loaded") as refused:
        SentenceTransformersEmbedder(str(tmp_path / "empty"), **PLAIN).embed_query([None], ["a"])
    assert "\n" not in str(refused.value) and refused.value.setting == "embedder.model"


@pytest.mark.parametrize("name", ["batch_size", "batch_tokens", "hand_over"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, float("nan")])
def test_numbers_are_checked_before_anything_is_loaded(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"embedder.{name}"):
        SentenceTransformersEmbedder("no/model", **{name: value})
