"""What a constituency tree offers, Stanza's among others."""

from collections.abc import Sequence
from typing import Protocol


class Tree(Protocol):
    """A constituency tree: words are leaves, which have no children, each below a node labelled with its tag."""

    @property
    def label(self) -> str: ...

    @property
    def children(self) -> "Sequence[Tree]": ...
