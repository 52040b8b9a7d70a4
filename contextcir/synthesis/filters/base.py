"""Filters decide which instructions are kept: each gives a reason for a rejection or none; the first one counts."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from contextcir.checks import whole
from contextcir.errors import InputError, shown
from contextcir.phrases.parser import PhraseParser
from contextcir.synthesis.photos import Photos
from contextcir.synthesis.records import Description, Instruction, Pair

LANGUAGE = "filters.language"


class Candidate(NamedTuple):
    """An instruction that may be kept, with its pair and the description of the two images."""

    instruction: Instruction
    pair: Pair
    description: Description


class Finding(NamedTuple):
    """The result of a filter: the reason of a rejection in a word or two, or None, and scores, if it has any."""

    reason: str | None = None
    scores: dict[str, float] = {}  # noqa: RUF012  (a default that nobody changes)


class Filter(ABC):
    """Judges instructions, many at once; the result for one does not depend on the others."""

    def begin(self, folder: Path, images: Path | Photos, links: bool = False) -> None:  # noqa: B027  (most need nothing)
        """Take the folders of the synthesis and of its images; called before the first `judge`.

        ``links``: let links lead out of the folder of images.
        """

    @abstractmethod
    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        """Return a finding for each candidate."""


class CaptionFilter(Filter):
    """A filter that judges each text by itself."""

    @abstractmethod
    def reason(self, caption: str) -> str | None:
        """Return why a text is rejected, or None."""

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        return [Finding(self.reason(candidate.instruction.caption)) for candidate in candidates]


class Length(CaptionFilter):
    """Rejects texts that CLIP would truncate, and those of too few words.

    Args:
        most: tokens, the start and the end token among them.
        fewest_words: of a text.
        model: whose tokenizer counts, by its name in open_clip.
        count: counts the tokens of a text, in place of that tokenizer.
    """

    def __init__(
        self,
        most: int = 77,
        fewest_words: int = 2,
        model: str = "ViT-B-32",
        count: Callable[[str], int] | None = None,
    ) -> None:
        self.most = whole(most, 1, "filters.most")
        self.fewest_words = whole(fewest_words, 0, "filters.fewest_words")
        self.model = model
        self._given = count

    @cached_property
    def count(self) -> Callable[[str], int]:
        """Counts the tokens of a text."""
        if self._given is not None:
            return self._given
        import open_clip  # imports torch, which takes seconds: only when a text is counted

        from contextcir.encoders.text import open_clip_name

        encode = open_clip.get_tokenizer(open_clip_name(self.model)).encode
        return lambda text: len(encode(text)) + 2

    def reason(self, caption: str) -> str | None:
        if len(caption.split()) < self.fewest_words:
            return "too short"
        return "too long" if self.count(caption) > self.most else None


class Language(CaptionFilter):
    """Rejects texts that py3langid classifies as another language.

    It does so for 0.3 % of 1,500 captions of CIRR's validation split, all of which are English.

    Args:
        language: the ISO 639-1 code of the texts to keep.
    """

    def __init__(self, language: str = "en") -> None:
        if len(language) != 2 or not language.isalpha():
            raise InputError(f"expected a code of two letters, such as en, got {shown(language)}", setting=LANGUAGE)
        self.language = language

    @cached_property
    def _classify(self) -> Callable[[str], tuple[str, float]]:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 0.5 s: only when a text is classified

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).classify

    def reason(self, caption: str) -> str | None:
        return None if self._classify(caption)[0] == self.language else "language"


PICTURE = r"(?:images?|pictures?|photos?|photographs?|pics?|snapshots?|lists?)"
WHICH = r"(?:first|second|1st|2nd|original|initial|reference|target|source|query|previous)"
# the letters only as capitals: "make the picture a little larger" is about a picture in the scene
NAMED_IMAGE = re.compile(
    rf"\b{WHICH}\s+(?:of\s+)?(?:(?:the|these|both|two)\s+){{0,2}}{PICTURE}\b"
    rf"|\b{PICTURE}\s*(?:#|no\.?|number)?\s*(?:\d+|one|two|(?-i:[AB]))\b",
    re.IGNORECASE,
)


class NamesNoImage(CaptionFilter):
    """Rejects texts that name the images by number or role: "image 1", "the second photo", "target image"."""

    def reason(self, caption: str) -> str | None:
        return "names an image" if NAMED_IMAGE.search(caption) else None


class HasPhrase(Filter):
    """Rejects texts without a noun phrase: nothing in them could be attended to.

    Args:
        parser: finds the phrases.
    """

    def __init__(self, parser: PhraseParser) -> None:
        self.parser = parser

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        parses = self.parser.parse([candidate.instruction.caption for candidate in candidates])
        return [Finding(None if parse.phrases else "no noun phrase") for parse in parses]


class Consistency(ABC):
    """Scores whether a text leads from a reference to its target, by a model of images and texts."""

    def begin(self, folder: Path, images: Path | Photos, links: bool = False) -> None:  # noqa: B027
        """Take the folders of the synthesis and of its images; called before the first `score`."""

    @abstractmethod
    def score(self, pairs: Sequence[Pair], captions: Sequence[str]) -> list[dict[str, float]]:
        """Return scores by name for each caption of a pair; the verdict keeps them."""

    @abstractmethod
    def reason(self, scores: dict[str, float]) -> str | None:
        """Return the reason of a rejection for these scores in a word or two, or None."""


class Consistent(Filter):
    """Rejects what a `Consistency` rejects. Put it last: it reads images.

    Args:
        consistency: the model and its bounds.
    """

    def __init__(self, consistency: Consistency) -> None:
        self.consistency = consistency

    def begin(self, folder: Path, images: Path | Photos, links: bool = False) -> None:
        self.consistency.begin(folder, images, links)

    def judge(self, candidates: Sequence[Candidate]) -> list[Finding]:
        pairs = [candidate.pair for candidate in candidates]
        scores = self.consistency.score(pairs, [candidate.instruction.caption for candidate in candidates])
        if len(scores) != len(pairs):
            name = type(self.consistency).__name__
            raise ValueError(f"{name}.score gave {len(scores)} results for {len(pairs)} captions: a bug of it")
        return [Finding(self.consistency.reason(each), each) for each in scores]
