"""Where the noun phrases and clauses of captions come from in training and use: a bank, a parser, or both."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from contextcir.phrases.bank import PhraseBank
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser


class PhraseSource(ABC):
    """Gives the noun phrases and clauses of captions; goes to loader workers, so it is cheap to pickle."""

    @abstractmethod
    def find(self, captions: Sequence[str]) -> list[Parse]:
        """Return the noun phrases and clauses of each caption, as `PhraseParser.parse` does.

        Clauses are () where the source knows phrases only, see `check_clauses`.

        Raises:
            InputError: if a caption's phrases can't be had.
        """

    def has(self, caption: str) -> bool:
        """Tell whether `find` knows a caption."""
        return True

    def check_clauses(self) -> None:  # noqa: B027  (most sources have them)
        """Raise InputError if the source gives no clauses; called before training where a model reads them."""

    def missing(self, captions: Iterable[str]) -> list[str]:
        """Return those of the captions whose phrases can't be had; cheap, and called before training."""
        return []

    def complaint(self, caption: str, files: Sequence[str | Path]) -> str:
        """Return the words that say that a caption is `missing`, and what to do about those of ``files``."""
        raise NotImplementedError(f"{type(self).__name__} lacks no caption")


class BankPhrases(PhraseSource):
    """Phrases that were parsed before, from a bank; a caption that is not in it is an error.

    Args:
        path: of the bank.
        key: what it must have been made by (parser, model, version and selection); None for anything.
    """

    def __init__(self, path: str | Path, key: ParserKey | None = None) -> None:
        self.bank = PhraseBank(path, key)

    def find(self, captions: Sequence[str]) -> list[Parse]:
        return [self.bank.parse(caption) for caption in captions]

    def has(self, caption: str) -> bool:
        return caption in self.bank

    def check_clauses(self) -> None:
        self.bank.check_clauses()

    def missing(self, captions: Iterable[str]) -> list[str]:
        self.bank.close()  # captions may have been added since
        return [caption for caption in captions if caption not in self.bank]

    def complaint(self, caption: str, files: Sequence[str | Path]) -> str:
        return self.bank.complaint(caption, files)


class ParsedPhrases(PhraseSource):
    """Phrases that are parsed when they are needed: for a demo or a handful of queries, too slow for training.

    Args:
        parser: what parses them.
    """

    def __init__(self, parser: PhraseParser) -> None:
        self.parser = parser

    def find(self, captions: Sequence[str]) -> list[Parse]:
        return self.parser.parse(captions)


class BankThenParser(PhraseSource):
    """Phrases from a bank, and of captions that are not in it from the parser that the bank was made by.

    Args:
        path: of the bank.
        parser: with the bank's key; another one is an error.
    """

    def __init__(self, path: str | Path, parser: PhraseParser) -> None:
        self.path = path
        self.parser = parser
        self._bank: PhraseBank | None = None

    def __reduce__(self) -> tuple[type["BankThenParser"], tuple[str | Path, PhraseParser]]:
        return BankThenParser, (self.path, self.parser)

    @property
    def bank(self) -> PhraseBank:
        """The bank, known to be of the parser's key."""
        if self._bank is None:
            self._bank = PhraseBank(self.path, self.parser.key)
        return self._bank

    def find(self, captions: Sequence[str]) -> list[Parse]:
        unknown = [caption for caption in dict.fromkeys(captions) if caption not in self.bank]
        parsed = dict(zip(unknown, self.parser.parse(unknown), strict=True)) if unknown else {}
        return [parsed[caption] if caption in parsed else self.bank.parse(caption) for caption in captions]

    def check_clauses(self) -> None:
        self.bank.check_clauses()

    def missing(self, captions: Iterable[str]) -> list[str]:
        self.bank.close()  # captions may have been added since
        len(self.bank)  # opens the bank, so that one of another key is an error before training
        return []
