"""Search in a folder of photos, by images, a text, or both::

searcher = Searcher.load("runs/demo/ID")
searcher.index_folder("photos", "photos.index")
found = searcher.search("photos/cup.jpg", "in red, on a table")
for result in found.results:
    print(result.rank, result.score, searcher.folder / result.photo.path)
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contextcir.errors import InputError, shown
from contextcir.files import one_writer
from contextcir.phrases.parser import Parse
from contextcir.search.composing import Composer, ModelEncoder
from contextcir.search.folder import Loading, Progress, Report, index_folder
from contextcir.search.folding import fold
from contextcir.search.index import Hit, Index, Where
from contextcir.search.listing import check_folder
from contextcir.search.places import SERVER, check_same, describe, make_index, open_index
from contextcir.search.queries import Found, Phrase, Picture, Query, Result, as_shown, read_pictures
from contextcir.search.texts import TextReader
from contextcir.training.models import HUB, load
from contextcir.training.module import ContextCIR

__all__ = ["Found", "Phrase", "Query", "Result", "Searcher"]

SPARE = 16  # photos that are looked for beyond those that are wanted, for copies among them
DEEPER = 4  # times as many, where copies leave too few


class Searcher:
    """A model, and an index of photos that it searches; threads may share it.

    Args:
        model: the model.
        name: how the index names it: what `load` finds it by.
        index: of the photos; None until `index_folder` makes one.
        texts: finds noun phrases and clauses of texts; None for spaCy, or the text's own joints without it.

    Raises:
        InputError: if the index was made with another model.
    """

    def __init__(
        self, model: ContextCIR, name: str, index: Index | None = None, texts: TextReader | None = None
    ) -> None:
        self.model = model.eval()
        self.texts = texts or TextReader()
        self.described = describe(model, name)
        self._index = index
        self._composer = Composer(self.model)
        self._lock = threading.Lock()  # of the model
        if index is not None:
            check_same(index.about, self.described, _place_of(index))

    @classmethod
    def load(
        cls,
        model: str | Path | None = None,
        index: str | Path | Index | None = None,
        device: str | torch.device | None = None,
    ) -> "Searcher":
        """Return a searcher.

        Args:
            model: a checkpoint file, the folder of a run, a published checkpoint, ``hf-hub:OWNER/NAME``, or the name of
                a CLIP that comes with the package (`contextcir.load`); None for the model that the index names.
            index: the index, or its folder; None to make one first.
            device: "cpu", "cuda", "cuda:1"; None for a GPU where there is one.

        Raises:
            MissingFileError: if there is no such model or index.
            InputError: if one can't be used, or the index was made with another model.
        """
        place = device_of(device)
        opened = index if index is None or isinstance(index, Index) else open_index(Path(index))
        if model is None:
            if opened is None:
                raise InputError("expected a model, an index that names one, or both", setting="model")
            model = str(opened.about.get("model", ""))
        return cls(load(model).to(place), name_of(model), opened)

    @property
    def index(self) -> Index:
        """The index; raises InputError if there is none yet."""
        if self._index is None:
            raise InputError("there is no index: make one with `index_folder`, or name one", setting="index")
        return self._index

    @property
    def about(self) -> Mapping[str, Any]:
        """What the index notes: its format, the model and its digests, and the folder of the photos."""
        return self.index.about

    @property
    def folder(self) -> Path:
        """The folder of the photos, as it was when they were indexed."""
        return Path(self.about["folder"])

    def index_folder(
        self,
        folder: str | Path,
        out: str | Path,
        *,
        workers: int | None = None,
        progress: Progress | None = None,
        only: tuple[int, int] | None = None,
        qdrant: str | None = None,
    ) -> Report:
        """Make an index of the photos below a folder, or bring one up to date; it is searched from then on.

        Only photos that are new or have changed are encoded. After a kill, the same call does the rest.

        Args:
            folder: of the photos.
            out: folder of the index.
            workers: processes that decode photos; None for as many as the machine has processors to spare.
            progress: is told how far it is.
            only: shard I of N: the other photos are neither added nor deleted. Shards with one folder of an index take
                turns; with folders of their own, they are joined by `merge`, and on Qdrant they run at once.
            qdrant: address of a Qdrant server that is to hold the index.

        Raises:
            MissingFileError: if there is no such folder.
            InputError: if one can't be used, or the index is another model's.
        """
        loading = Loading(workers)
        photos, place = Path(folder).expanduser(), Path(out).expanduser()
        about = {**self.described, "folder": str(photos.resolve())}
        check_folder(photos)
        index = make_index(place, about, qdrant)
        shared = only is not None and os.path.lexists(place / SERVER)
        lease = ".indexing" if not shared or only is None else f".indexing-{only[0]}-of-{only[1]}"
        with one_writer(place, "indexes photos", lease):
            report = index_folder(photos, index, self.encoder, loading, progress, only, place)
        if self._index is None or _place_of(self._index) == _place_of(index):
            self._index = index
        return report

    @property
    def encoder(self) -> ModelEncoder:
        """The image tower, as it encodes photos."""
        return ModelEncoder(self.model)

    def search(
        self,
        image: Picture | Sequence[Picture] | None = None,
        text: str = "",
        k: int = 20,
        without: str | Sequence[str] = (),
        where: Where | None = None,
        balance: float = 0.5,
        fold: bool = True,
        maps: bool = False,
    ) -> Found:
        """Return the photos nearest to a query.

        Args:
            image: what is searched from: files, contents of files, PIL images or arrays; one, several, or none.
            text: what is to be different.
            k: results.
            without: paths in the index of photos that are not wanted.
            where: which photos are looked at.
            balance: from 0, the image alone, to 1, the text alone; see `Query`.
            fold: show photos that look alike as copies of the best one.
            maps: give the attention to each noun phrase.

        Raises:
            InputError: for what can't be searched with.
        """
        unwanted = (without,) if isinstance(without, str) else tuple(without)
        return self.search_many([Query(read_pictures(image), text, k, where, unwanted, balance, fold, maps)])[0]

    def check(self, query: Query) -> None:
        """Raise InputError for a query that `search_many` would refuse: call it before queries are put together.

        That is one with a text alone for a model that can't embed it, or unwanted photos that are not in the index.
        """
        self._composer.check(query)
        if query.without:
            there = {stored.photo.path for stored in self.index.fetch(set(query.without), thumbnails=False)}
            for path in query.without:
                if path not in there:
                    raise InputError(f"no photo {shown(path)} in the index", setting="without")

    def search_many(self, queries: Sequence[Query]) -> list[Found]:
        """Return what each query finds; the model takes them as one batch.

        Raises:
            InputError: as `check`, before anything is encoded.
        """
        if not queries:
            return []
        for query in queries:
            self.check(query)
        upright = [replace(query, images=tuple(map(as_shown, query.images))) for query in queries]
        parses = [_in_order(parse) for parse in self.texts.read([query.text for query in upright])]
        with self._lock:
            composed = self._composer.compose(upright, parses)
        results = self._results(upright, composed.embedding)
        clean = self.model.backbone.tokenizer.clean
        found = []
        for query, parse, maps, ranked in zip(upright, parses, composed.maps, results, strict=True):
            text = clean(query.text)
            phrases = (
                Phrase(text[span.start : span.end], span.start, span.end, attention)
                for span, attention in zip(parse.phrases, maps, strict=True)
            )
            found.append(Found(tuple(ranked), tuple(phrases), text))
        return found

    def _results(self, queries: Sequence[Query], vectors: Tensor) -> list[list[Result]]:
        """Return the results of queries with the embeddings (Q, E); those of equal conditions are searched at once."""
        results: list[list[Result]] = [[] for _ in queries]
        groups: dict[Any, list[int]] = {}
        for number, query in enumerate(queries):
            groups.setdefault((query.where, query.without), []).append(number)
        for (where, without), members in groups.items():
            away = None
            if without:
                unwanted = self.embeddings(without)
                away = torch.stack(list(unwanted.values())) if unwanted else None
            left = members
            depth = max(queries[n].count + (SPARE if queries[n].fold else 0) for n in members)
            while left:
                hits = dict(zip(left, self.index.search(vectors[left], depth, where, without, away), strict=True))
                for number in left:
                    results[number] = self._ranked(hits[number], queries[number])
                left = [n for n in left if len(results[n]) < queries[n].count and len(hits[n]) == depth]
                depth *= DEEPER
        return results

    def _ranked(self, hits: Sequence[Hit], query: Query) -> list[Result]:
        if query.fold:
            return fold(hits, query.count, self.embeddings)
        return [Result(rank, hit.score, hit.photo) for rank, hit in enumerate(hits[: query.count], start=1)]

    def embeddings(self, paths: Any) -> dict[str, Tensor]:
        """Return the embeddings (E,) of photos in the index, by path."""
        if not paths:
            return {}
        stored = self.index.fetch(set(paths), embeddings=True, thumbnails=False)
        return {photo.path: embedding for photo, embedding in stored if embedding is not None}


def device_of(name: str | torch.device | None) -> torch.device:
    """Return a device by its name, a GPU where there is one if that is None; raises InputError if there is none."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:80]
        raise InputError(f"can't use {shown(str(name))}: {reason}", setting="device") from None


def name_of(model: str | Path) -> str:
    """Return how an index names a model, wherever a command is started: a path from the root, or the name itself."""
    text = os.fspath(model)
    here = not text.startswith(HUB) and os.path.lexists(os.path.expanduser(text))
    return str(Path(text).expanduser().resolve()) if here else text


def _in_order(parse: Parse) -> Parse:
    return parse._replace(phrases=tuple(sorted(parse.phrases)))


def _place_of(index: Index) -> str:
    """Return the folder of an index, or the collection that it is; "" for others."""
    return str(getattr(index, "folder", getattr(index, "collection", "")))
