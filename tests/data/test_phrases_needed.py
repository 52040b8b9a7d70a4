"""A concept loss on records without phrases: an error with the commands, before an image is looked for."""

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from contextcir.errors import InputError
from contextcir.losses import PhraseAlignment, TextConceptConsistency
from contextcir.phrases.sources import ParsedPhrases
from data_modules import CIRR, FashionIQ, LaSCo
from data_modules.base import CompositionDataModule
from data_modules.loading.phrases import phrases_to_train_on
from data_modules.records import Origin, QueryRecord, TrainingSet
from tests.helpers.make_data import edited, make_cirr, preprocess
from tests.helpers.make_fashioniq import make_fashioniq
from tests.helpers.make_lasco import make_lasco
from tests.helpers.make_mixture import make_sets, mixture
from tests.helpers.word_parser import WordParser

BENCHMARKS: list[tuple[Callable[[Path], Path], type[CompositionDataModule]]] = [
    (make_cirr, CIRR),
    (make_fashioniq, FashionIQ),
    (make_lasco, LaSCo),
]


def set_up(data: CompositionDataModule, concept: object | None) -> None:
    """As a Trainer does for ``fit``."""
    model = SimpleNamespace(concept=concept, preprocess=preprocess)
    data.trainer = SimpleNamespace(
        lightning_module=model, limit_val_batches=1.0, training=True, distributed_sampler_kwargs=None
    )
    data.setup("fit")


@pytest.mark.parametrize(("make", "kind"), BENCHMARKS, ids=[kind.__name__ for _, kind in BENCHMARKS])
def test_no_phrases_at_all_are_an_error_with_both_commands(make: Callable, kind: type, tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    for image in [*root.rglob("*.png"), *root.rglob("*.jpg")]:
        image.unlink()  # not even looked for
    with pytest.raises(InputError, match="none of .* captions has noun phrases for TextConceptConsistency") as refused:
        set_up(kind(root), TextConceptConsistency())
    message = refused.value.describe()
    assert "python -m experiments.phrases --captions" in message and "--config overlays/phrase_bank" in message
    assert refused.value.setting == "data.phrases" and len(message) < 300


def test_without_a_loss_that_counts_or_with_a_source_no_phrases_are_needed(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "cirr")
    for concept in (None, TextConceptConsistency(weight=0)):
        set_up(CIRR(root, batch_size=2), concept)
    set_up(CIRR(root, batch_size=2, phrases=ParsedPhrases(WordParser())), PhraseAlignment())


def test_some_records_without_phrases_are_a_warning_with_counts(tmp_path: Path) -> None:
    root = make_cirr(tmp_path / "cirr")
    with edited(root / "captions" / "cap.rc2.train.json") as records:
        for record in records[2:]:
            record["phrases"] = [{"start": 0, "end": 4}]
    with pytest.warns(UserWarning, match=r"^2 of 6 training captions have no noun phrases, the first .*record 0 "):
        set_up(CIRR(root, batch_size=2), TextConceptConsistency())
    with edited(root / "captions" / "cap.rc2.train.json") as records:
        for record in records:
            record["phrases"] = [{"start": 0, "end": 4}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_up(CIRR(root, batch_size=2), TextConceptConsistency())


def test_a_mixture_is_judged_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="noun phrases for TextConceptConsistency"):
        set_up(mixture(make_sets(tmp_path)), TextConceptConsistency())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["cap.json"], "--captions cap.json --parser"),
        (["my caps.json"], "--captions 'my caps.json' --parser"),
        (["a.json", "b.json"], "--captions a.json b.json --parser"),
        (["/data/" + "x" * 50 + f"/cap.{split}.json" for split in ("train", "val")], "/cap.*.json --parser"),
        (["/data/" + "x" * 300 + "/cap.json"], "--captions FILE... --parser"),
    ],
)
def test_the_command_fits_into_the_message(files: list[str], words: str) -> None:
    records = tuple(QueryRecord("a", "a dog", origin=Origin(file)) for file in files)
    scored = [SimpleNamespace(records=(record,)) for record in records[1:]]
    with pytest.raises(InputError) as refused:
        phrases_to_train_on(TrainingSet(records[:1], {}, files[0]), scored, TextConceptConsistency())
    assert words in str(refused.value) and len(str(refused.value)) < 300
