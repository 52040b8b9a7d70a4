"""Noun phrases from Stanza's constituency parser, as in the paper: the NP nodes of a caption's trees."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from contextcir.errors import InputError, shown
from contextcir.phrases.clauses import Word, clause_spans
from contextcir.phrases.division import clause_starts
from contextcir.phrases.parser import Parse, ParserKey, PhraseParser, Span, clean, whole_characters
from contextcir.phrases.selection import AllPhrases, Candidate, Level, Quota, count_words, names_something, trim
from contextcir.phrases.stanza_models import StanzaModels, weights_only
from contextcir.phrases.trees import Tree

if TYPE_CHECKING:
    from stanza.models.common.doc import Document
    from stanza.models.common.doc import Word as StanzaWord

BULK = 256  # captions at a time: larger batches are no faster


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
    phrases = [Words(first, end, tuple(nodes.tags[first:end])) for first, end in trimmed]
    return [words for words in phrases if names_something(words.tags)]


class ConstituencyParser(PhraseParser):
    """Noun phrases of the trees of Stanza's English models.

    Models that are missing are downloaded by Stanza, once.

    Args:
        quota: how many phrases of a caption are kept, and in which order.
        level: which of phrases inside each other are kept; by default all, as published.
        model_dir: folder of the models; by default that of the environment's STANZA_RESOURCES_DIR, else Stanza's own.
        package: set of models by its name in Stanza's ``resources.json``: default, default_fast or default_accurate.
        device: where the models run.

    Raises:
        MissingFileError: from `key` and `parse`, if models are missing or damaged and can't be downloaded.
        InputError: from `key` and `parse`, for an unknown package, or models that can't be loaded.
    """

    def __init__(
        self,
        quota: Quota = Quota(),  # noqa: B008
        level: Level | None = None,
        model_dir: str | None = None,
        package: str = "default",
        device: str = "cpu",
    ) -> None:
        self.quota = quota
        self.level = AllPhrases() if level is None else level
        self.model_dir = model_dir
        self.package = package
        self.device = device

    def __getstate__(self) -> dict[str, Any]:
        # a model is loaded anew where it is needed
        return {name: value for name, value in vars(self).items() if name != "_pipeline"}

    @cached_property
    def models(self) -> StanzaModels:
        """The files of the models."""
        return StanzaModels(self.model_dir, self.package)

    @cached_property
    def key(self) -> ParserKey:
        """Names the models by what Stanza calls them and by a digest of their files."""
        import stanza

        digest = self.models.made_ready()
        named = ", ".join(f"{processor}={model}" for processor, model in self.models.processors().items())
        version = f"{stanza.__version__} with files {digest[:12]}"
        return ParserKey("stanza", named, version, self.quota.describe(self.level))

    def parse(self, captions: Sequence[str]) -> list[Parse]:
        if isinstance(captions, str):
            raise InputError(f"expected a list of captions, got the single text {shown(captions)}: put it in a list")
        texts = [clean(caption) for caption in captions]
        distinct = list(dict.fromkeys(filter(None, texts)))
        found = {"": Parse()}
        for start in range(0, len(distinct), BULK):
            bulk = distinct[start : start + BULK]
            for text, document in zip(bulk, self._pipeline.bulk_process(bulk), strict=True):
                phrases = self.quota.fill(candidates(text, document), self.level)
                found[text] = Parse(phrases, clauses(text, document))
        return [found[text] for text in texts]

    @cached_property
    def _pipeline(self) -> Any:
        import stanza

        _ = self.key  # all files are there and whole
        try:
            with weights_only():
                return stanza.Pipeline(
                    "en",
                    dir=str(self.models.folder),
                    package=None,
                    processors=self.models.processors(),
                    download_method=None,
                    device=self.device,
                    verbose=False,
                )
        except Exception as error:  # torch's, pickle's, Stanza's own
            raise self.models.reason(error, self.device) from None


def candidates(text: str, document: "Document") -> Iterator[Candidate]:
    """Yield the noun phrases of all sentences, by the offsets of their words: a tree writes brackets as -LRB-."""
    for sentence in document.sentences:
        for words in noun_phrases(sentence.constituency):
            start, _ = _place(sentence.words[words.first])
            _, end = _place(sentence.words[words.end - 1])
            yield Candidate(whole_characters(text, start, end), count_words(words.tags))


def clauses(text: str, document: "Document") -> tuple[Span, ...]:
    """Return the clauses of a parsed text."""
    words: list[Word] = []
    starts: list[int] = []
    for sentence in document.sentences:
        starts += [len(words) + start for start in (0, *clause_starts(sentence.constituency))]
        for word in sentence.words:
            start, end = _place(word)
            words.append(Word(start, end, word.xpos or ""))
    return clause_spans(text, words, starts)


def _place(word: "StanzaWord") -> tuple[int, int]:
    """Return the characters of a word; those of a contraction that is not their concatenation have its place."""
    start = word.parent.start_char if word.start_char is None else word.start_char
    return start, word.parent.end_char if word.end_char is None else word.end_char
