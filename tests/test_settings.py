"""Every number of every class that a config can name is checked when the class is built; new classes are found."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
from lightning.pytorch import Callback

import callbacks
import contextcir.fusion
import contextcir.losses
import contextcir.training
from contextcir.embedders import ChatReranker, OpenCLIPEmbedder, SentenceTransformersEmbedder, ServerEmbedder
from contextcir.embedders.rules import NormalisedSum
from contextcir.encoders.backbone import Widths
from contextcir.errors import InputError
from contextcir.fusion import Fusion
from contextcir.losses import ConceptLoss, InfoNCE, StoredNegatives
from contextcir.training import AdamWWarmupCosine, WholeBatch
from tests.helpers.classes import concrete_classes

KINDS = [
    *concrete_classes(contextcir.losses, ConceptLoss),
    *concrete_classes(contextcir.losses, InfoNCE),
    StoredNegatives,
    *concrete_classes(contextcir.fusion, Fusion),
    *concrete_classes(contextcir.training, AdamWWarmupCosine),
    *concrete_classes(contextcir.training, WholeBatch),
    *concrete_classes(callbacks, Callback),
    ChatReranker, NormalisedSum, OpenCLIPEmbedder, SentenceTransformersEmbedder, ServerEmbedder,
]  # fmt: skip
GIVEN = {"widths": Widths(16, 16, 16), "dirpath": "a", "folder": "a", "file": "a", "model": "a"}  # what has no default
BAD = (math.nan, math.inf, -math.inf, -1, -1e9, True, 10**400)
# Parameters for which such a value has a meaning.
FINE = {"ModelSize.max_depth": "Lightning's own: -1 shows all levels"}
PREFIXES = ("model.", "trainer.callbacks.", "embedder.", "reranking.")
IN_WORDS = {"PhraseAlignment"}  # may be at two places in a config: the message, not the setting, has the name


def numeric(kind: type) -> list[str]:
    """The parameters of a class that take numbers, by their annotations."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if any(word in str(p.annotation) for word in ("int", "float"))]


def cases() -> Iterator[tuple[type, str]]:
    for kind in KINDS:
        for name in numeric(kind):
            if name not in ("now", "precision") and f"{kind.__name__}.{name}" not in FINE:
                yield kind, name


def build(kind: type, **settings: Any) -> Any:
    parameters = inspect.signature(kind).parameters
    needed = {name: value for name, value in GIVEN.items() if name in parameters}
    return kind(**needed, **settings)


def test_classes_and_their_numbers_are_found() -> None:
    found = {(kind.__name__, name) for kind, name in cases()}
    assert {
        ("InfoNCE", "temperature"), ("LearnedTemperatureInfoNCE", "rows"), ("TextConceptConsistency", "epsilon"),
        ("CrossAttentionFusion", "layers"), ("ConceptAttentionFusion", "dropout"), ("GradientCache", "chunk"),
        ("AdamWWarmupRestarts", "cycle_growth"), ("AdamWWarmupCosine", "betas"), ("AttentionFigures", "samples"),
        ("ResumePoints", "every_minutes"), ("ConceptMonitor", "every_n_steps"),
        ("StopWhenNotFinite", "every_n_batches"), ("ProgressLines", "every"),
    } <= found  # fmt: skip
    for kind in KINDS:
        build(kind)


@pytest.mark.parametrize(("kind", "name"), list(cases()), ids=lambda part: getattr(part, "__name__", part))
def test_a_number_that_can_not_be_meant_is_refused_by_its_name(kind: type, name: str) -> None:
    for value in BAD:
        given = [(value, 0.5), (0.5, value)] if name == "betas" else [value]
        for bad in given:
            with pytest.raises(InputError) as refused:
                build(kind, **{name: bad})
            message = str(refused.value)
            assert len(message) < 300 and "\n" not in message and "got" in message
            named = message if kind.__name__ in IN_WORDS else refused.value.setting
            assert name in named and refused.value.setting.startswith(PREFIXES)


ABSURD = [
    (InfoNCE, {"temperature": 1e-30}),
    (InfoNCE, {"temperature": 0}),
    (InfoNCE, {"temperature": 1e30}),
    (InfoNCE, {"rows": 0}),
    (InfoNCE, {"rows": 2.5}),
    (StoredNegatives, {"count": 0}),
    (contextcir.losses.LearnedTemperatureInfoNCE, {"temperature": 0.001}),
    (contextcir.losses.PhraseAlignment, {"temperature": 1e-30}),
    (contextcir.losses.GroundedConsistency, {"temperature": 0}),
    (contextcir.losses.GroundedConsistency, {"least_contrast": 0}),
    (contextcir.losses.SpatialConsistency, {"contrast": 1e30}),
    (contextcir.losses.TextConceptConsistency, {"epsilon": 1}),
    (contextcir.fusion.CrossAttentionFusion, {"layers": 0}),
    (contextcir.fusion.CrossAttentionFusion, {"layers": 10**9}),
    (contextcir.fusion.CrossAttentionFusion, {"heads": 0}),
    (contextcir.fusion.CrossAttentionFusion, {"heads": 3}),
    (contextcir.fusion.CrossAttentionFusion, {"dropout": 1.0}),
    (contextcir.training.GradientCache, {"chunk": 0}),
    (AdamWWarmupCosine, {"lr": 0, "backbone_lr": 0}),
    (AdamWWarmupCosine, {"lr": 1.0, "weight_decay": 2.0}),
    (AdamWWarmupCosine, {"betas": (1.0, 0.9)}),
    (AdamWWarmupCosine, {"betas": (0.9,)}),
    (AdamWWarmupCosine, {"eps": 0}),
    (AdamWWarmupCosine, {"final_lr_scale": 1.5}),
    (AdamWWarmupCosine, {"warmup_steps": 1.5}),
    (contextcir.training.AdamWWarmupRestarts, {"cycle_steps": 0}),
    (contextcir.training.AdamWWarmupRestarts, {"cycle_growth": 0}),
    (callbacks.AttentionFigures, {"every_n_epochs": 0}),
    (callbacks.AttentionFigures, {"samples": 10**9}),
    (callbacks.ConceptMonitor, {"every_n_steps": 0}),
    (callbacks.ResumePoints, {"keep": 0}),
    (callbacks.ResumePoints, {"every_n_train_steps": 0}),
    (callbacks.StopWhenNotFinite, {"every_n_batches": 0}),
    (callbacks.StoreGallery, {"precision": "float8"}),
]


@pytest.mark.parametrize(("kind", "settings"), ABSURD, ids=lambda part: str(getattr(part, "__name__", part)))
def test_a_setting_without_sense_is_refused(kind: type, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        build(kind, **settings)
    assert any(name in str(refused.value) for name in settings)


def test_zero_is_allowed_where_it_switches_something_off() -> None:
    contextcir.losses.TextConceptConsistency(weight=0)
    AdamWWarmupCosine(lr=0)
    AdamWWarmupCosine(weight_decay=0, warmup_steps=0)
    callbacks.AttentionFigures(samples=0)
