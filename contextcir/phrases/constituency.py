"""Noun phrases from Stanza's constituency parser, as in the paper: the NP nodes of a caption's trees."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from contextcir.errors import InputError, MissingFileError
from contextcir.phrases.parser import ParserKey, PhraseParser, Span, clean, whole_characters
from contextcir.phrases.selection import AllPhrases, Candidate, Level, Quota, count_words, names_something, trim

if TYPE_CHECKING:
    from stanza.models.common.doc import Document

PROCESSORS = ("tokenize", "mwt", "pos", "constituency")  # in the order in which they run
BULK = 256  # captions at a time: larger batches are no faster


class Tree(Protocol):
    """A constituency tree: words are leaves, which have no children, each below a node labelled with its tag."""

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
        MissingFileError: from `key` and `parse`, if models are missing and can't be downloaded.
        InputError: from `key` and `parse`, for an unknown package.
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

    @property
    def folder(self) -> Path:
        """Where the models are, or will be."""
        import stanza

        # Stanza itself reads the variable at import only
        return Path(self.model_dir or os.environ.get("STANZA_RESOURCES_DIR") or stanza.DEFAULT_MODEL_DIR)

    @cached_property
    def key(self) -> ParserKey:
        """Names the models by what Stanza calls them and by a digest of their files."""
        import stanza

        models = self._models()
        digest = hashlib.sha256()
        for path in self._files(models):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        named = ", ".join(f"{processor}={model}" for processor, model in models.items())
        version = f"{stanza.__version__} with files {digest.hexdigest()[:12]}"
        return ParserKey("stanza", named, version, self.quota.describe(self.level))

    def parse(self, captions: Sequence[str]) -> list[tuple[Span, ...]]:
        if isinstance(captions, str):
            raise InputError(f"expected a list of captions, got the single text {captions!r}: put it in a list")
        texts = [clean(caption) for caption in captions]
        distinct = list(dict.fromkeys(filter(None, texts)))
        phrases: dict[str, tuple[Span, ...]] = {"": ()}
        for start in range(0, len(distinct), BULK):
            bulk = distinct[start : start + BULK]
            for text, document in zip(bulk, self._pipeline.bulk_process(bulk), strict=True):
                phrases[text] = self.quota.fill(candidates(text, document), self.level)
        return [phrases[text] for text in texts]

    @cached_property
    def _pipeline(self) -> Any:
        import stanza

        models = self._models()
        return stanza.Pipeline(
            "en",
            dir=str(self.folder),
            package=None,
            processors=models,
            download_method=None,
            device=self.device,
            verbose=False,
        )

    def _models(self) -> dict[str, str]:
        """Return processors and their models, all of whose files exist now."""
        try:
            models = self._listed()
            if all(path.is_file() for path in self._files(models)):
                return models
        except FileNotFoundError:
            pass
        self._download()
        return self._listed()

    def _listed(self) -> dict[str, str]:
        packages = self._resources()["packages"]
        if self.package not in packages:
            raise InputError(
                f"no package '{self.package}' in {self.folder / 'resources.json'}, but {', '.join(packages)}",
                setting="parser.package",
            )
        package = packages[self.package]
        return {processor: package[processor] for processor in PROCESSORS if processor in package}

    def _resources(self) -> dict[str, Any]:
        return json.loads((self.folder / "resources.json").read_text(encoding="utf-8"))["en"]

    def _files(self, models: dict[str, str]) -> list[Path]:
        """Return the files of the models, and of the word vectors and language models below them."""
        resources = self._resources()
        needed = dict.fromkeys(models.items())
        for processor, model in models.items():
            below = resources[processor][model].get("dependencies", ())
            needed |= dict.fromkeys((part["model"], part["package"]) for part in below)
        return [self.folder / "en" / kind / f"{name}.pt" for kind, name in needed]

    def _download(self) -> None:
        import stanza
        from lightning.pytorch.utilities.rank_zero import rank_zero_info  # slow to import, for every worker process

        rank_zero_info(f"downloading Stanza's English models ({self.package}) to {self.folder}, once")
        processors = ",".join(PROCESSORS)
        try:
            stanza.download("en", model_dir=str(self.folder), package=self.package, processors=processors)
        except (OSError, ValueError) as error:  # the network's errors and the hub's are OSErrors
            command = f"stanza.download('en', 'stanza_resources', '{self.package}', '{processors}')"
            raise MissingFileError(
                f"{self.folder} lacks Stanza's English models, and they can't be downloaded ({type(error).__name__}): "
                f'where there is a network, run python -c "import stanza; {command}", copy that folder here and '
                "name it in STANZA_RESOURCES_DIR"
            ) from None


def candidates(text: str, document: "Document") -> Iterator[Candidate]:
    """Yield the noun phrases of all sentences, by the offsets of their words: a tree writes brackets as -LRB-."""
    for sentence in document.sentences:
        for words in noun_phrases(sentence.constituency):
            first, last = sentence.words[words.first], sentence.words[words.end - 1]
            # words of a contraction that is not their concatenation have no place of their own
            start = first.parent.start_char if first.start_char is None else first.start_char
            end = last.parent.end_char if last.end_char is None else last.end_char
            yield Candidate(whole_characters(text, start, end), count_words(words.tags))
