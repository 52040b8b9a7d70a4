import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contextcir.phrases.constituency import noun_phrases
from contextcir.phrases.parser import Span
from contextcir.phrases.selection import (
    AllPhrases,
    Candidate,
    HighestPhrases,
    Level,
    LowestPhrases,
    Quota,
    names_something,
    trim,
)

# as the published code's parser sees the example of the paper's page
SOFA = """(ROOT (S (S (NP (DT the) (NN dog)) (VP (VBZ is) (VP (VBG standing) (PP (IN on) (NP (NP (DT a) (JJ
red) (NN sofa)) (ADVP (RB next) (PP (IN to) (NP (DT a) (JJ small) (NN table))))))))) (, ,) (CC and)
(S (NP (NP (DT the) (NN wall)) (PP (IN behind) (NP (PRP it)))) (VP (VBZ is) (ADJP (JJ white)))) (.
.)))"""


class Node(NamedTuple):
    label: str
    children: tuple["Node", ...] = ()


def read(brackets: str) -> Node:
    """The tree that is written with brackets."""
    stack = [Node("")]
    for piece in re.findall(r"\(\S+|\)|[^\s()]+", brackets):
        if piece == ")":
            node = stack.pop()
            stack[-1] = stack[-1]._replace(children=(*stack[-1].children, node))
        elif piece.startswith("("):
            stack.append(Node(piece[1:]))
        else:
            stack[-1] = stack[-1]._replace(children=(*stack[-1].children, Node(piece)))
    return stack[0].children[0]


def leaves(node: Node) -> list[str]:
    return [word for child in node.children for word in leaves(child)] if node.children else [node.label]


def chosen(brackets: str, level: Level, quota: Quota = Quota()) -> list[str]:  # noqa: B008
    """The phrases that are chosen, with one character a word."""
    tree = read(brackets)
    found = [Candidate(Span(words.first, words.end), words.end - words.first) for words in noun_phrases(tree)]
    return [" ".join(leaves(tree)[start:end]) for start, end in quota.fill(found, level)]


def test_the_published_example_is_found_with_larger_phrases_first():
    assert chosen(SOFA, AllPhrases()) == [
        "a red sofa next to a small table",
        "the wall behind it",
        "a red sofa",
        "a small table",
        "the dog",
        "the wall",
    ]


def test_lowest_phrases_hold_no_other_and_highest_are_in_no_other():
    assert chosen(SOFA, LowestPhrases()) == ["a red sofa", "a small table", "the dog", "the wall"]
    assert chosen(SOFA, HighestPhrases()) == ["a red sofa next to a small table", "the wall behind it", "the dog"]


def test_a_caption_that_is_one_phrase_keeps_it():
    car = "(ROOT (NP (NP (DT a) (JJ red) (NN car)) (PP (IN near) (NP (DT a) (NN tree))) (. .)))"
    assert chosen(car, AllPhrases()) == ["a red car near a tree", "a red car", "a tree"]
    assert chosen(car, HighestPhrases()) == ["a red car near a tree"]


def test_single_words_count_only_where_they_are_asked_for():
    dogs = "(ROOT (S (NP (NNS dogs)) (VP (VBP chase) (NP (PRP them)) (PP (IN in) (NP (DT the) (NN snow))))))"
    assert chosen(dogs, AllPhrases()) == ["the snow"]
    assert chosen(dogs, AllPhrases(), Quota(min_words=1)) == ["the snow", "dogs"]


def test_a_phrase_over_short_ones_is_the_lowest_if_these_do_not_count():
    fruit = "(ROOT (NP (NP (NNS dogs)) (PP (IN on) (NP (NN grass)))))"
    assert chosen(fruit, LowestPhrases()) == ["dogs on grass"]
    assert chosen(fruit, LowestPhrases(), Quota(min_words=1)) == ["dogs", "grass"]


@pytest.mark.parametrize(
    "phrase",
    ["(PRP it)", "(PRP$ its)", "(DT this)", "(EX there)", "(WP who)", "(PDT all) (DT these)", "(, ,) (DT that) (. .)",
     "(NP (DT both)) (PP (IN of) (NP (PRP them)))", "(NP (DT this)) (CC and) (NP (DT that))"],
)  # fmt: skip
def test_phrases_of_pronouns_and_determiners_only_are_dropped(phrase):
    assert noun_phrases(read(f"(ROOT (S (NP {phrase}) (VP (VBZ is))))")) == []


def test_what_belongs_to_the_sentence_is_cut_from_the_edges():
    tags = ["NP", ",", "DT", "NN", "POS", "NN", ":", "."]
    assert trim(tags, 1, 8) == (2, 6)
    assert trim(tags, 2, 5) == (2, 4)
    brackets = ["-LRB-", "DT", "NN", "-RRB-", "``", "NN", "''"]
    assert trim(brackets, 0, 4) == (0, 4)
    assert trim(brackets, 1, 4) == (1, 3)
    assert trim(brackets, 4, 6) == (5, 6)
    assert trim([".", ","], 0, 2)[0] == trim([".", ","], 0, 2)[1]


def test_the_quota_goes_to_larger_phrases_and_from_left_to_right():
    found = [Candidate(Span(8, 9), 2), Candidate(Span(4, 7), 3), Candidate(Span(0, 3), 3), Candidate(Span(0, 9), 5)]
    assert Quota(max_phrases=3).fill(found, AllPhrases()) == ((0, 9), (0, 3), (4, 7))
    assert Quota(max_phrases=3, min_words=3).fill(found, LowestPhrases()) == ((0, 3), (4, 7))


def test_equal_spans_are_one_phrase():
    assert Quota().fill([Candidate(Span(0, 5), 2)] * 3, HighestPhrases()) == ((0, 5),)


@pytest.mark.parametrize("settings", [{"max_phrases": 0}, {"min_words": 0}])
def test_a_quota_below_one_is_an_error(settings):
    with pytest.raises(ValueError, match=r"from 1 on, got 0 \(parser\.quota\.\w+\)"):
        Quota(**settings)


def test_what_is_kept_is_in_the_description():
    told = {Quota(m, w).describe(level) for m in (3, 4) for w in (1, 2) for level in (AllPhrases(), LowestPhrases())}
    assert len(told) == 8


def test_very_deep_trees_are_read():
    tree = Node("NN", (Node("dog"),))
    for _ in range(2_000):
        tree = Node("NP", (tree, Node("JJ", (Node("red"),))))
    assert len(noun_phrases(tree)) == 2_000


WORD = st.sampled_from(["DT", "JJ", "NN", "PRP", "IN", ","]).map(lambda tag: Node(tag, (Node("w"),)))
LABEL = st.sampled_from(["NP", "VP", "S"])
TREE = st.recursive(WORD, lambda inner: st.builds(Node, LABEL, st.tuples(inner, inner)), max_leaves=14)


def naive(node: Node, start: int = 0) -> tuple[list[str], set[tuple[int, int]]]:
    """Tags of a tree, and the words of its NPs without commas at the edges, by recursion."""
    if len(node.children) == 1:
        return [node.label], set()
    tags, spans = [], set()
    for child in node.children:
        more, inside = naive(child, start + len(tags))
        tags, spans = tags + more, spans | inside
    if node.label == "NP":
        kept = [place for place, comma in ((i, tag == ",") for i, tag in enumerate(tags, start)) if not comma]
        if any(tags[place - start] in ("JJ", "NN") for place in kept):
            spans.add((kept[0], kept[-1] + 1))
    return tags, spans


@settings(max_examples=100, deadline=None)
@given(tree=TREE, most=st.integers(1, 4))
def test_phrases_of_any_tree_are_those_of_a_naive_walk(tree, most):
    _, expected = naive(tree)
    found = noun_phrases(Node("ROOT", (tree, Node(".", (Node("."),)))))
    assert {(words.first, words.end) for words in found} == expected and len(found) == len(expected)
    assert all(names_something(words.tags) for words in found)

    candidates = [Candidate(Span(words.first, words.end), words.end - words.first) for words in found]
    sets = {span: set(range(*span)) for span in expected}
    lowest = {a for a in sets if not any(sets[b] < sets[a] for b in sets)}
    highest = {a for a in sets if not any(sets[b] > sets[a] for b in sets)}
    every = Quota(max_phrases=99, min_words=1)
    assert set(every.fill(candidates, LowestPhrases())) == lowest
    assert set(every.fill(candidates, HighestPhrases())) == highest
    # by their size, and within a size from the left: the first ones of all
    by_size = [span for size in range(40, 0, -1) for span in sorted(sets) if len(sets[span]) == size]
    assert list(Quota(most, 1).fill(candidates, AllPhrases())) == by_size[:most]
