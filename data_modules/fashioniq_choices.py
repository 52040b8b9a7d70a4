"""What published FashionIQ figures differ in: the text of a query, and the gallery of a category."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from data_modules.triplets import QueryRecord


class CaptionText(ABC):
    """Makes the texts of a query from its two captions, in the wording of CLIP4Cir.

    The captions lose blanks and ``.?,`` at their ends and are joined by "and". The published code does that to the 15
    records with one empty caption too, and so their texts begin or end with "and" here as well.
    """

    @property
    @abstractmethod
    def orders(self) -> tuple[tuple[int, int], ...]:
        """Which caption comes first and which second, once per text."""

    @property
    def template(self) -> str:
        """What the texts look like."""
        return " | ".join(f"{{caption {first + 1}}} and {{caption {second + 1}}}" for first, second in self.orders)

    def compose(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Return the texts of a query."""
        halves = [caption.strip(".?, ") for caption in captions]
        return tuple(f"{halves[first].capitalize()} and {halves[second]}" for first, second in self.orders)


class FirstAndSecond(CaptionText):
    """One text, the captions in the order of the file, as CLIP4Cir and most others score it."""

    orders = ((0, 1),)


class SecondAndFirst(CaptionText):
    """One text, the captions in the other order."""

    orders = ((1, 0),)


class BothOrders(CaptionText):
    """Both orders: the mean of their two embeddings is scored, as SEARLE and LinCIR do. In training, two triplets."""

    orders = ((0, 1), (1, 0))


class CategoryGallery(ABC):
    """Chooses the gallery of a category. Figures on different galleries can't be compared."""

    @abstractmethod
    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        """Return the gallery, given all images of the split file and the queries."""


class OriginalGallery(CategoryGallery):
    """All images of the split file: 3,817 dresses, 6,346 shirts, 5,373 tops for validation."""

    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        return tuple(listed)


class VALGallery(CategoryGallery):
    """Candidates and targets only, as VAL (Chen et al., CVPR 2020) and CosMo: 2,628, 3,089 and 2,902 images. Easier.

    Raises ValueError for queries whose targets are hidden.
    """

    def choose(self, listed: Sequence[str], queries: Sequence[QueryRecord]) -> tuple[str, ...]:
        if any(record.target is None for record in queries):
            raise ValueError(
                "VALGallery needs candidates and targets, but targets are hidden: set --data.gallery=OriginalGallery"
            )
        named = {name for record in queries for name in (record.reference, record.target)}
        return tuple(name for name in listed if name in named)
