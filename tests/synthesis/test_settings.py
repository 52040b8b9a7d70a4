"""Numbers that mean nothing are refused where an object is built: NaN, infinite, negative, too large, or no number."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contextcir.errors import InputError
from contextcir.synthesis.describe import DescribeSettings
from contextcir.synthesis.filters.base import Language, Length
from contextcir.synthesis.filters.consistency import ClipConsistency
from contextcir.synthesis.filters.repeats import Duplicates
from contextcir.synthesis.instruct import InstructSettings
from contextcir.synthesis.mining import (
    ApproximateSearch,
    Band,
    ExactSearch,
    Loading,
    MinedPairs,
    NearDuplicates,
    SearchBySize,
    Uses,
)
from contextcir.synthesis.models.base import Budget, Prices
from contextcir.synthesis.models.batch_files import BatchFiles
from contextcir.synthesis.models.chat import ChatModel, ImageLimits
from contextcir.synthesis.models.endpoint import Endpoint
from contextcir.synthesis.models.local import LocalModel
from contextcir.synthesis.models.pacing import Pace, Retries
from contextcir.synthesis.models.serving import OwnServer
from contextcir.synthesis.outputs.manifest import choose
from contextcir.synthesis.outputs.sheet import EmbeddedImages
from contextcir.synthesis.outputs.write import WriteSettings
from contextcir.synthesis.photos import ParquetPhotos
from experiments.synthesize import Synthesis

NEVER = (math.nan, math.inf, -math.inf, -2, True, "1", 10**400)
CHAT = ChatModel("m")
SETTINGS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [  # class, what it needs, and its numbers
    (Band, {}, "low high"),
    (Uses, {}, "as_reference as_target"),
    (Loading, {}, "batch_size workers chunk"),
    (NearDuplicates, {}, "bits"),
    (ExactSearch, {}, "block"),
    (ApproximateSearch, {}, "lists probes sample threads"),
    (SearchBySize, {}, "most"),
    (MinedPairs, {}, "neighbours group most seed"),
    (Prices, {}, "input output"),
    (Budget, {}, "cost tokens requests"),
    (Pace, {}, "requests_per_minute tokens_per_minute"),
    (Retries, {}, "attempts first longest patience"),
    (ImageLimits, {}, "longest_side largest_file quality tokens"),
    (ChatModel, {"model": "m"}, "max_tokens temperature corrections"),
    (Endpoint, {"chat": CHAT}, "concurrency timeout lost_after"),
    (OwnServer, {"chat": CHAT}, "port patience"),
    (ParquetPhotos, {"shards": "x"}, "groups"),
    (BatchFiles, {"chat": CHAT, "folder": Path("x")}, "requests largest_file attempts"),
    (LocalModel, {"model": "m"}, "batch_size max_tokens corrections"),
    (DescribeSettings, {}, "objects"),
    (Duplicates, {}, "per_run"),
    (Length, {}, "most fewest_words"),
    (ClipConsistency, {}, "margin slack batch_size workers"),
    (WriteSettings, {}, "val_share samples"),
    (EmbeddedImages, {}, "side"),
    (Synthesis, {"out": Path("x")}, "seed"),
]


@pytest.mark.parametrize(
    ("kind", "needed", "name"), [(kind, needed, name) for kind, needed, names in SETTINGS for name in names.split()]
)
def test_a_number_that_means_nothing_is_told_with_its_setting(
    kind: Callable[..., Any], needed: dict[str, Any], name: str
) -> None:
    for value in NEVER:
        with pytest.raises(InputError) as caught:
            kind(**needed, **{name: value})
        text = str(caught.value)
        assert caught.value.setting is not None and caught.value.setting.endswith(name), value
        assert len(text) <= 300 and text.isprintable()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Band(0.9, 0.7),
        lambda: Retries(first=5, longest=1),
        lambda: WriteSettings(val_share=1.0),
        lambda: choose({"a": 1}, math.nan, 0),
        lambda: InstructSettings(captions=(math.nan,)),
        lambda: InstructSettings(captions=(3, 1)),
        lambda: InstructSettings(captions=(10**400,)),
        lambda: InstructSettings(concepts=(math.inf,)),
        lambda: InstructSettings(styles=(" ",)),
        lambda: Language(""),
        lambda: Language("english\n"),
        lambda: ChatModel(" "),
        lambda: ChatModel("m", extra={"top_p": math.nan}),
        lambda: ChatModel("m", extra={"path": Path("x")}),
        lambda: LocalModel(""),
        lambda: Endpoint(ChatModel("m"), budget=Budget(cost=1)),
    ],
)
def test_settings_that_contradict_are_told(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        wrong()
    assert caught.value.setting and str(caught.value).isprintable() and len(str(caught.value)) <= 300
