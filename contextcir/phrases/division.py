"""Where a constituency tree begins a new clause: at coordinated sentences and verb phrases, and at what commas set off.

Noun phrases are never divided: "add a dog and a cat" asks for one thing.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from contextcir.phrases.clauses import COMPARISONS, EXCHANGE
from contextcir.phrases.trees import Tree

CLAUSAL = frozenset({"S", "SINV", "SQ", "VP", "FRAG", "UCP"})
TOP = CLAUSAL | {"NP", "PP", "ADJP", "ADVP", "X", "INTJ", "PRN"}  # a whole sentence may be any of these
SEPARATORS = frozenset({",", ":", ".", "CC"})
ADJUNCTS = frozenset({"VBG", "VBN", "TO"})  # verbs that begin what is said of something, and not a request
VERBS = ("VB", "MD")


class Part(NamedTuple):
    """A child of a node: the number of its first word, and whether it is a word with its tag."""

    node: Tree
    first: int
    is_word: bool


def clause_starts(tree: Tree) -> list[int]:
    """Return the words before which a tree is divided, in ascending order; without recursion, as trees may be deep."""
    starts: list[int] = []
    todo = [Part(tree, 0, False)]
    top = True
    while todo:
        part = todo.pop()
        parts = _parts(part)
        segments = _segments(parts)
        starts += _divided(segments)
        for segment in segments:
            headed = False
            for child in segment:
                headed |= child.is_word and child.node.label.startswith(VERBS)
                # what a verb takes, "have it sit and beg", is a part of its request; what an auxiliary does, is not
                if not child.is_word and (
                    child.node.label in (TOP if top else {"VP"} if headed else CLAUSAL) or _is_sentence(child.node)
                ):
                    todo.append(child)
        top = top and part.node.label == "ROOT"
    return sorted(starts)


def _divided(segments: Sequence[Sequence[Part]]) -> list[int]:
    starts = []
    before = False
    for segment in segments:
        asks = _asks(segment)
        if before and asks:
            starts.append(segment[0].first)
        before |= asks
        for previous, child in pairwise(segment):  # "do this then do that"
            if previous.node.label == child.node.label and child.node.label in ("S", "VP"):
                starts.append(child.first)
    return starts


def _asks(segment: Sequence[Part]) -> bool:
    """Tell whether a part of a sentence between separators may ask for a change by itself."""
    for part in segment:
        label = part.node.label
        if part.is_word and label.startswith(VERBS):
            return True
        if part.is_word:
            continue
        if label == "PP" and not COMPARISONS.intersection(_words(part.node)[:1]):
            return True
        if (label in CLAUSAL and not _is_adjunct(part.node)) or _is_sentence(part.node):
            return True
        if label == "NP" and EXCHANGE in _words(part.node):
            return True
    return False


def _is_sentence(node: Tree) -> bool:
    """Tell whether a node is a subordinate clause without what makes it one: "then it is red"."""
    return node.label == "SBAR" and bool(node.children) and node.children[0].label in ("ADVP", "S")


def _is_adjunct(node: Tree) -> bool:
    if node.label != "S":
        return False
    while node.children and node.children[0].children:
        node = node.children[0]
    return node.label in ADJUNCTS


def _segments(parts: Sequence[Part]) -> list[list[Part]]:
    """Return the children of a node between its commas and conjunctions."""
    segments: list[list[Part]] = [[]]
    for part in parts:
        if part.is_word and part.node.label in SEPARATORS:
            segments.append([])
        else:
            segments[-1].append(part)
    return [segment for segment in segments if segment]


def _parts(part: Part) -> list[Part]:
    parts, first = [], part.first
    for child in part.node.children:
        is_word = not child.children or (len(child.children) == 1 and not child.children[0].children)
        parts.append(Part(child, first, is_word))
        first += len(_words(child))
    return parts


def _words(tree: Tree) -> list[str]:
    words: list[str] = []
    todo = [tree]
    while todo:
        node = todo.pop()
        words += [] if node.children else [node.label]
        todo += reversed(node.children)
    return words
