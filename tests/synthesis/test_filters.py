"""Filters: what each rejects and what it must not, and a reason for every rejection."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contextcir.synthesis.filters.base import (
    Candidate,
    Consistency,
    Consistent,
    Filter,
    Finding,
    HasPhrase,
    Language,
    Length,
    NamesNoImage,
)  # fmt: skip
from contextcir.synthesis.filters.repeats import Duplicates, LeaksNothing
from contextcir.synthesis.filters.verdicts import FilterStage, judge
from contextcir.synthesis.records import Description, Instruction, Pair, Verdict
from contextcir.synthesis.stages import Run
from contextcir.synthesis.store import Shard, read_stage, shard_path
from tests.helpers.word_parser import WordParser

SOFA = {"object": "sofa", "descriptors": ["red", "leather", "under the wide window"]}
LAMP = {"object": "lamp", "descriptors": ["tall", "made of brass", "switched on"]}
CAT = {"object": "cat", "descriptors": ["black", "asleep"]}
ROOM = Description("p", (SOFA, LAMP), (SOFA, {**LAMP, "descriptors": ["tall", "made of brass", "switched off"]}, CAT))


def candidate(caption: str, description: Description = ROOM, key: str = "p#0") -> Candidate:
    pair = Pair(key.partition("#")[0], "a.jpg", "b.jpg")
    return Candidate(Instruction(key, pair.key, caption, 1), pair, description)


def reason(rule: Filter, caption: str) -> str | None:
    return rule.judge([candidate(caption)])[0].reason


@pytest.mark.parametrize("words", [74, 75])
def test_texts_that_clip_would_cut_off_are_too_long(words: int) -> None:
    caption = " ".join(["dog"] * words)  # one token each
    assert reason(Length(), caption) is None
    assert reason(Length(), caption + " dog dog") == "too long"
    assert reason(Length(most=words + 1, count=lambda text: len(text.split()) + 2), caption) == "too long"


def test_a_single_word_is_too_short() -> None:
    assert reason(Length(), "smaller") == "too short" and reason(Length(), "smaller dog") is None


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("make the dog smaller", None),
        ("remove the star", None),
        ("I'd like two more cups on the left side", None),
        ("Entferne den Hund und füge eine Katze hinzu", "language"),
        ("Ajoute un chien à côté du canapé", "language"),
        ("把圆圈变成红色", "language"),
        ("Сделай круг красным", "language"),
    ],
)
def test_other_languages_are_rejected(caption: str, expected: str | None) -> None:
    assert reason(Language(), caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "make it look like image 2",
        "Image #1 has a dog",
        "the dog of the first image is gone",
        "as in the second of the two photos",
        "like the original picture but darker",
        "make picture B brighter",
        "match the target image",
        "turn photo two around",
    ],
)
def test_texts_that_name_an_image_are_rejected(caption: str) -> None:
    assert reason(NamesNoImage(), caption) == "names an image"


@pytest.mark.parametrize(
    "caption",
    [
        "make the picture a bit larger",
        "remove the two pictures above the bed",
        "the first dog is gone",
        "hang a photo above the 2 chairs",
        "turn the image of the cat into a poster",
    ],
)
def test_pictures_in_the_scene_may_be_named(caption: str) -> None:
    assert reason(NamesNoImage(), caption) is None


@pytest.mark.parametrize(
    "caption",
    ["put a cat on the sofa under the wide window", "a cat in front of the red leather sofa, and turn the lamp off"],
)
def test_descriptions_of_what_stays_are_leaks(caption: str) -> None:
    assert reason(LeaksNothing(), caption) == "leaks unchanged"


@pytest.mark.parametrize(
    "caption",
    [
        "switch off the tall lamp made of brass",
        "put a black cat on the sofa",
        "a sleeping cat on the red sofa",  # one word may be there to tell two sofas apart
        "move the window",
    ],
)
def test_names_and_what_changes_are_no_leaks(caption: str) -> None:
    assert reason(LeaksNothing(), caption) is None


def test_of_two_like_things_one_may_change() -> None:
    cup = {"object": "cup", "descriptors": ["with a blue rim"]}
    description = Description("p", (cup, cup), (cup, {"object": "cup", "descriptors": ["with a red rim"]}))
    found = LeaksNothing().judge([candidate("the cup with a blue rim gets a red rim", description)])
    assert found == [Finding(None)]


def test_texts_without_a_noun_phrase_are_rejected() -> None:
    rule = HasPhrase(WordParser())
    found = rule.judge([candidate("make the dog smaller"), candidate("much smaller")])
    assert [finding.reason for finding in found] == [None, "no noun phrase"]


class Fixed(Consistency):
    """Scores a caption by its length."""

    def score(self, pairs: Sequence[Pair], captions: Sequence[str]) -> list[dict[str, float]]:
        assert all(isinstance(pair, Pair) for pair in pairs)
        return [{"gain": float(len(caption))} for caption in captions]

    def reason(self, scores: dict[str, float]) -> str | None:
        return "inconsistent" if scores["gain"] > 10 else None


def test_consistency_is_asked_last_and_its_figures_are_kept() -> None:
    batch = [candidate("a cat"), candidate("cat"), candidate("a cat on the lamp")]
    repeated = Duplicates().find([])
    verdicts = judge(batch, [Length(count=len), Consistent(Fixed())], repeated)
    assert [(verdict.reason, verdict.scores) for verdict in verdicts] == [
        (None, {"gain": 5.0}),
        ("too short", {}),
        ("inconsistent", {"gain": 17.0}),
    ]


def test_duplicates_are_found_in_a_pair_and_over_the_run() -> None:
    texts = [("p1", "Add a cat."), ("p1", "add a  cat"), ("p1", "add a dog"), ("p2", "ADD A CAT"), ("p3", "add a cat!")]
    instructions = [Instruction(f"{pair}#{n}", pair, text, 1) for n, (pair, text) in enumerate(texts)]
    found = Duplicates(per_run=2).find(instructions)
    reasons = {each.key: found.reason(each.key) for each in instructions}
    assert reasons["p1#1"] == "duplicate in pair" and reasons["p1#2"] is None
    assert Counter(reasons[key] for key in ("p1#0", "p2#3", "p3#4")) == {None: 2, "duplicate in run": 1}
    assert {Duplicates(per_run=None).find(instructions).reason(key) for key in reasons} == {None, "duplicate in pair"}
    with pytest.raises(ValueError, match=r"\(duplicates\.per_run\)"):
        Duplicates(per_run=0)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4), st.randoms())
def test_a_text_is_kept_as_often_as_is_allowed_in_any_order(texts: list[str], most: int, random: object) -> None:
    instructions = [Instruction(f"{n}#0", str(n), text, 1) for n, text in enumerate(texts)]
    kept = [each.key for each in instructions if Duplicates(most).find(instructions).reason(each.key) is None]
    counts = Counter(texts[int(key.partition("#")[0])] for key in kept)
    assert counts == {text: min(most, count) for text, count in Counter(texts).items()}
    random.shuffle(instructions)
    found = Duplicates(most).find(instructions)
    assert sorted(kept) == sorted(each.key for each in instructions if found.reason(each.key) is None)


def write_judged(folder: Path, texts: dict[str, list[str]]) -> None:
    """Write what comes before the filter, for pairs and their texts."""
    records = {"pairs": [], "describe": [], "instruct": []}
    for key, captions in texts.items():
        records["pairs"].append(Pair(key, f"{key}-a.jpg", f"{key}-b.jpg").to_json())
        records["describe"].append(Description(key, ROOM.reference, ROOM.target).to_json())
        instructions = [Instruction(f"{key}#{number}", key, text, 1) for number, text in enumerate(captions)]
        records["instruct"].append([instruction.to_json() for instruction in instructions])
    for stage, entries in records.items():
        with Shard(shard_path(folder, stage, 0, 1)) as shard:
            shard.append(entries)


def test_every_text_gets_one_verdict_and_rejections_are_counted(tmp_path: Path) -> None:
    texts = {f"p{number}": [f"add a cat, way {number}", "cat", "see image 2"] for number in range(300)}
    write_judged(tmp_path, texts)
    filters = [Length(count=len), NamesNoImage()]
    for index in range(2):
        FilterStage(filters, Duplicates(per_run=1)).run(Run(tmp_path, index, 2))
    verdicts = [Verdict.from_json(record) for record in read_stage(tmp_path, "filter")]
    assert sorted(verdict.key for verdict in verdicts) == sorted(f"{key}#{n}" for key in texts for n in range(3))
    expected = {None: 300, "duplicate in run": 598, "too short": 1, "names an image": 1}
    assert Counter(verdict.reason for verdict in verdicts) == expected
    assert FilterStage(filters).run(Run(tmp_path)).before == 900
    one = tmp_path / "one"
    write_judged(one, texts)
    tally = FilterStage(filters, Duplicates(per_run=1)).run(Run(one))
    assert tally.done == 300 and {None: tally.done, **tally.failed} == expected
