"""Where captions are divided, and what their clauses hold."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.phrases.chunks import ChunkParser
from contextcir.phrases.clauses import Word, clause_spans
from contextcir.phrases.division import clause_starts
from data_modules.scenes.clauses import SceneClauses
from data_modules.scenes.graph import random_scene
from data_modules.scenes.groups import random_edit
from data_modules.scenes.wording import Caption, join_clauses
from tests.phrases.test_phrase_trees import SOFA, leaves, read

CHANGES = """(ROOT (S (VP (VP (VB add) (NP (NP (DT a) (NN dog)) (CC and) (NP (DT a) (NN cat)))) (CC and)
(VP (VB zoom) (PRT (RP in))))))"""
SPLICE = "(ROOT (S (S (VP (VB zoom) (PRT (RP in)))) (, ,) (NP (DT the) (NN dog)) (VP (VBZ is) (ADJP (JJ red)))))"
ADJUNCT = "(ROOT (S (VP (VB add) (NP (DT a) (NN dog)) (, ,) (S (VP (VBG sleeping))))))"
EXCHANGE = """(ROOT (FRAG (NP (NP (DT a) (NN cat)) (PP (RB instead) (IN of) (NP (NN dogs)))) (, ,)
(PP (IN without) (NP (NN snow)))))"""
UNLIKE = "(ROOT (S (PP (IN unlike) (NP (NNS dogs))) (, ,) (NP (PRP i)) (VP (VBP want) (NP (NNS cats)))))"


@pytest.mark.parametrize(
    ("tree", "begin"),
    [
        (SOFA, ["and the wall"]),
        (CHANGES, ["and zoom in"]),
        (SPLICE, ["the dog is"]),
        (ADJUNCT, []),
        (EXCHANGE, ["without snow"]),
        (UNLIKE, []),
    ],
)
def test_trees_are_divided_where_they_join_requests(tree: str, begin: list[str]) -> None:
    words = leaves(read(tree))
    starts = [start - (words[start - 1] == "and") for start in clause_starts(read(tree))]
    assert [
        " ".join(words[start : start + len(first.split())]) for start, first in zip(starts, begin, strict=True)
    ] == begin


def test_what_joins_clauses_belongs_to_none() -> None:
    text = "add a dog , and then , zoom in ."
    tags = ["VB", "DT", "NN", ",", "CC", "RB", ",", "VB", "RP", "."]
    words, place = [], 0
    for part, tag in zip(text.split(), tags, strict=True):
        words.append(Word(place, place + len(part), tag))
        place += len(part) + 1
    assert [text[start:end] for start, end in clause_spans(text, words, [4, 6])] == ["add a dog", "zoom in"]
    assert [text[start:end] for start, end in clause_spans(text, words[3:5], [1])] == [", and"]
    assert clause_spans("", [], []) == ()


@given(st.text(st.sampled_from("ab ,.&"), max_size=20), st.sets(st.integers(-2, 25)))
def test_clauses_of_any_words_lie_apart_and_begin_and_end_at_words(text: str, starts: set[int]) -> None:
    words = [Word(place, place + 1, "," if mark in ",." else "NN") for place, mark in enumerate(text) if mark != " "]
    spans = clause_spans(text, words, starts)
    assert bool(spans) == bool(words)
    assert all(0 <= first < end for first, end in spans)
    assert all(one.end <= other.start for one, other in pairwise(spans))
    if any(mark not in " ,.&" for mark in text):
        kept = "".join(text[start:end] for start, end in spans)
        assert sorted(mark for mark in kept if mark in "ab") == sorted(mark for mark in text if mark in "ab")
        assert all(text[start] in "ab" and text[end - 1] in "ab" for start, end in spans)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_scenes_are_divided_into_what_each_edit_says(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    scene, busy, said = random_scene(rng), set(), []

    def clause(edit, caption: Caption) -> None:
        start = len(caption.text)
        edit.say(rng, scene, caption)
        said.append((start, len(caption.text)))

    edits = []
    for _ in range(20 * count):
        edit = random_edit(rng, scene, busy, 0.2) if len(edits) < count else None
        if edit is not None:
            edits.append(edit)
            busy.add(edit.key)
    caption = join_clauses(rng, [lambda text, edit=edit: clause(edit, text) for edit in edits])
    (parse,) = SceneClauses().find([caption.text])
    assert [tuple(span) for span in parse.clauses] == said and parse.phrases == ()


@pytest.mark.parametrize(
    ("caption", "clauses"),
    [
        ("Add a dog and a cat.", ["add a dog and a cat"]),
        ("Remove the dog, add a cat and make the sky blue", ["remove the dog", "add a cat", "make the sky blue"]),
        ("The sofa is red. Also remove the dog, then zoom in.", ["the sofa is red", "remove the dog", "zoom in"]),
        ("a cat instead of the dog, without snow", ["a cat instead of the dog", "without snow"]),
        ("  ", []),
    ],
)
def test_spacy_divides_at_verbs(caption: str, clauses: list[str]) -> None:
    pytest.importorskip("spacy", reason="needs spaCy")
    (parse,) = ChunkParser().parse([caption])
    assert [caption.lower()[start:end] for start, end in parse.clauses] == clauses
