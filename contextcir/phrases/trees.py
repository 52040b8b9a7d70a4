"""The noun phrases of a constituency tree, as words of its sentence."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from contextcir.phrases.selection import names_something, trim


class Tree(Protocol):
    """What is needed of a tree: words are leaves, which have no children, each below a node labelled with its tag."""

    @property
    def label(self) -> str: ...

    @property
    def children(self) -> "Sequence[Tree]": ...


class Words(NamedTuple):
    """Words ``[first, end)`` of a sentence, and their ``tags``."""

    first: int
    end: int
    tags: tuple[str, ...]


class Nodes(NamedTuple):
    """A tree as lists: the ``tags`` of its words, and ``noun_phrases`` as words ``[first, end)``, inner ones first."""

    tags: list[str]
    noun_phrases: list[tuple[int, int]]


def flatten(tree: Tree) -> Nodes:
    """Return words and NP nodes of a tree; without recursion, as the trees of long captions are deep."""
    nodes = Nodes([], [])
    todo: list[tuple[Tree, int]] = [(tree, -1)]
    while todo:
        node, first = todo.pop()
        if first >= 0:  # all below it has been seen
            if node.label == "NP":
                nodes.noun_phrases.append((first, len(nodes.tags)))
        elif not node.children:  # a word without a tag
            nodes.tags.append("")
        elif len(node.children) == 1 and not node.children[0].children:
            nodes.tags.append(node.label)
        else:
            todo.append((node, len(nodes.tags)))
            todo += [(child, -1) for child in reversed(node.children)]
    return nodes


def noun_phrases(tree: Tree) -> list[Words]:
    """Return the NPs of a tree that can name something, each once, inner ones before outer ones, left to right.

    Punctuation at the edges belongs to the sentence, not the phrase ("a red car." as a whole is an NP). Phrases of
    nothing but pronouns, determiners and links between them are left out.
    """
    nodes = flatten(tree)
    trimmed = dict.fromkeys(trim(nodes.tags, first, end) for first, end in nodes.noun_phrases)
    found = [Words(first, end, tuple(nodes.tags[first:end])) for first, end in trimmed]
    return [words for words in found if names_something(words.tags)]
