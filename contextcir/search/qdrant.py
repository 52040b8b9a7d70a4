"""An index on Qdrant servers, for more images than one machine holds."""

import base64
import json
import random
import re
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from contextcir.checks import between, whole
from contextcir.errors import InputError, shown
from contextcir.search.index import Hit, Index, Photo, Stored, Where
from contextcir.search.vectors import parts, unit

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

Answer = TypeVar("Answer")

FORMAT = 1  # of the payload
STORED = 256  # points of a request that writes or reads them
QUERIES = 64  # of a request
SPARE = 16  # hits asked for beyond the last one, to put those of its score in order
TRIES, PAUSE = 5, 0.5  # of a request that fails for want of a connection; seconds before the second, doubled each time
NAMES = uuid.UUID("5e0c1b5c-3f0f-5a57-8a3f-7f4f8c2f6a10")  # of the ids of paths


@dataclass(frozen=True)
class Approximate:
    """A search in a graph of neighbours (HNSW) instead of a comparison with every image: much faster, not all found.

    Measure what it finds with `recall_at`.

    Args:
        hnsw_ef: candidates of the walk through the graph: more find more, and take longer.
        rescore: compare candidates again by their whole vectors, where the collection has quantised ones.
        oversampling: candidates for that, as a multiple of the images wanted.
    """

    hnsw_ef: int = 128
    rescore: bool = True
    oversampling: float = 2.0

    def __post_init__(self) -> None:
        whole(self.hnsw_ef, 1, "hnsw_ef")
        between(self.oversampling, 1, 1000, "oversampling")


class QdrantIndex(Index):
    """Photos as points of a collection, all their fields in the payload; see https://qdrant.tech/documentation.

    The search is exact unless `Approximate` is given. The server rounds: scores differ from those of `EmbeddedIndex`
    by 1e-3 at most. Images of equal score are in the order of their paths; of those that share the score of the last
    one, the first by path are chosen among `SPARE` more, not among all if there are more. A batch is not one change: a
    crash may leave a part of it. The collection is made when the first images are stored.

    Args:
        server: its address, or a client for it.
        collection: name of the collection.
        about: what makes the embeddings, of types that JSON has; None to open a collection that is there.
        approximate: how to search; None for exactly.
        quantization: one of ``qdrant_client.models``, for a collection that is made; None for whole vectors only.

    Raises:
        InputError: if the client is not installed, the server can't be reached, the collection is not there and none is
            to be made, or is about something else.
    """

    def __init__(
        self,
        server: "QdrantClient | str",
        collection: str,
        about: Mapping[str, Any] | None = None,
        *,
        approximate: Approximate | None = None,
        quantization: Any = None,
    ) -> None:
        self.models = _models()
        self.collection, self.approximate, self.quantization = collection, approximate, quantization
        self._server = server if isinstance(server, str) else "Qdrant"
        self._client = _client(server) if isinstance(server, str) else server
        self._width: int | None = None
        self._ready = False  # whether this process has seen to it that the payload is indexed
        stored = self._open()
        if stored is None and about is None:
            raise InputError(f"no collection {shown(collection)}: index a folder of images first", file=self._server)
        given = None if about is None else json.loads(json.dumps(dict(about)))
        if stored is not None and given is not None and stored != given:
            different = sorted(key for key in {*stored, *given} if stored.get(key) != given.get(key))
            raise self._foreign(f"was made by something else (see {shown(', '.join(different))})")
        self.about: Mapping[str, Any] = (stored if stored is not None else given) or {}

    def upsert(self, photos: Sequence[Photo], embeddings: Tensor) -> None:
        """Store photos, some at a time; see `Index.upsert`.

        Raises:
            InputError: as there, or if the server can't be reached.
        """
        if len(photos) != len(embeddings):
            raise InputError(f"expected an embedding for each of {len(photos)} photos, got {len(embeddings)}")
        if not photos:
            return
        vectors = unit(embeddings, self._known_width(), "embeddings")
        if not self._ready:
            self._make(vectors.shape[1])
        last = {photo.path: place for place, photo in enumerate(photos)}
        for places in parts(list(last.values()), STORED):
            points = [
                self.models.PointStruct(
                    id=point_id(photos[place].path), vector=vectors[place].tolist(), payload=to_payload(photos[place])
                )
                for place in places
            ]
            self._ask(self._client.upsert, self.collection, points, wait=True)

    def delete(self, paths: Collection[str]) -> int:
        """Remove images; see `Index.delete`."""
        if self._known_width() is None:
            return 0
        removed = 0
        for part in parts([point_id(path) for path in set(paths)], STORED):
            there = [point.id for point in self._retrieve(part, payload=False)]
            removed += len(there)
            if there:
                chosen = self.models.PointIdsList(points=there)
                self._ask(self._client.delete, self.collection, chosen, wait=True)
        return removed

    def search(
        self,
        queries: Tensor,
        count: int,
        where: Where | None = None,
        without: Collection[str] = (),
        away: Tensor | None = None,
    ) -> list[list[Hit]]:
        """Return the best images; see `Index.search`, and the class for equal scores.

        Raises:
            InputError: if embeddings have another width than those of the index, or the server can't be reached.
        """
        whole(count, 1, "count")
        queries = unit(queries, self._known_width(), "queries")
        if self._width is None:
            return [[] for _ in queries]
        unwanted: Any = [] if away is None or not len(away) else unit(away, self._width, "embeddings to move away from")
        chosen = self._filter(where, without)
        requests = [
            self.models.QueryRequest(
                query=self._query(query.tolist(), [vector.tolist() for vector in unwanted]),
                filter=chosen,
                params=self._params(),
                limit=count + SPARE,
                with_payload=True,
            )
            for query in queries
        ]
        found: list[list[Hit]] = []
        for part in parts(requests, QUERIES):
            for answer in self._ask(self._client.query_batch_points, self.collection, part):
                hits = [Hit(to_photo(point.payload or {}), point.score) for point in answer.points]
                found.append(sorted(hits, key=lambda hit: (-hit.score, hit.photo.path))[:count])
        return found

    def fetch(
        self, paths: Collection[str] | None = None, embeddings: bool = False, thumbnails: bool = True
    ) -> Iterator[Stored]:
        """Yield what is stored; see `Index.fetch`. The paths of all images are read into memory and sorted first."""
        if self._known_width() is None:
            return
        for part in parts(sorted(set(self._paths() if paths is None else paths)), STORED):
            ids = [point_id(path) for path in part]
            points = {point.id: point for point in self._retrieve(ids, thumbnails=thumbnails, vectors=embeddings)}
            for point in (points[name] for name in ids if name in points):
                yield Stored(to_photo(point.payload or {}), torch.tensor(point.vector) if embeddings else None)

    def count(self, where: Where | None = None) -> int:
        """Return the number of images."""
        if self._known_width() is None:
            return 0
        chosen = self._filter(where, ())
        return self._ask(self._client.count, self.collection, chosen, exact=True).count

    def close(self) -> None:
        """Close the connections; see `Index.close`."""
        self._client.close()

    def _open(self) -> dict[str, Any] | None:
        """Return what the collection is about, and learn its width; None if there is none."""
        if not self._ask(self._client.collection_exists, self.collection):
            return None
        config = self._ask(self._client.get_collection, self.collection).config
        metadata = config.metadata or {}
        if "contextcir" not in metadata:
            raise self._foreign("was not made by this project, or by a server older than Qdrant 1.16")
        if metadata["contextcir"] != FORMAT:
            raise self._foreign(f"has format {shown(metadata['contextcir'])}, expected {FORMAT}")
        self._width = getattr(config.params.vectors, "size", None)
        return json.loads(metadata["about"])

    def _known_width(self) -> int | None:
        if self._width is None:
            stored = self._open()  # another process may have made the collection meanwhile
            if stored is not None and stored != self.about:
                raise self._foreign("was made by something else meanwhile")
        return self._width

    def _make(self, width: int) -> None:
        kinds, models = self.models.PayloadSchemaType, self.models
        vectors = models.VectorParams(size=width, distance=models.Distance.COSINE)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Payload indexes have no effect")  # of the client's own memory
            if self._width is None:
                metadata = {"contextcir": FORMAT, "about": json.dumps(self.about)}
                settings = {"quantization_config": self.quantization, "metadata": metadata}
                self._ask(self._client.create_collection, self.collection, vectors, **settings)
            for field, kind in (("folders", kinds.KEYWORD), ("format", kinds.KEYWORD), ("taken", kinds.INTEGER)):
                self._ask(self._client.create_payload_index, self.collection, field, field_schema=kind, wait=True)
        self._width, self._ready = width, True

    def _query(self, query: list[float], away: list[list[float]]) -> Any:
        if not away:
            return query
        average = self.models.RecommendStrategy.AVERAGE_VECTOR
        recommended = self.models.RecommendInput(positive=[query], negative=away, strategy=average)
        return self.models.RecommendQuery(recommend=recommended)

    def _params(self) -> Any:
        models, chosen = self.models, self.approximate
        if chosen is None:
            whole_vectors = models.QuantizationSearchParams(ignore=True)
            return models.SearchParams(exact=True, quantization=whole_vectors)
        candidates = models.QuantizationSearchParams(rescore=chosen.rescore, oversampling=chosen.oversampling)
        return models.SearchParams(hnsw_ef=chosen.hnsw_ef, exact=False, quantization=candidates)

    def _filter(self, where: Where | None, without: Collection[str]) -> Any:
        models, where = self.models, where or Where()
        must: list[Any] = []
        if where.folder:
            must.append(models.FieldCondition(key="folders", match=models.MatchValue(value=to_text(where.folder))))
        if where.since is not None or where.until is not None:
            must.append(models.FieldCondition(key="taken", range=models.Range(gte=where.since, lt=where.until)))
        if where.formats:
            must.append(models.FieldCondition(key="format", match=models.MatchAny(any=list(where.formats))))
        ids = [point_id(path) for path in set(without)]
        return models.Filter(must=must, must_not=[models.HasIdCondition(has_id=ids)] if ids else None)

    def _paths(self) -> Iterator[str]:
        offset = None
        while True:
            request = {"limit": 10_000, "offset": offset, "with_payload": ["path"]}
            points, offset = self._ask(self._client.scroll, self.collection, **request)
            yield from (from_text((point.payload or {})["path"]) for point in points)
            if offset is None:
                return

    def _retrieve(
        self, ids: Sequence[str], payload: bool = True, thumbnails: bool = True, vectors: bool = False
    ) -> list[Any]:
        fields = payload if thumbnails else self.models.PayloadSelectorExclude(exclude=["thumbnail"])
        return self._ask(self._client.retrieve, self.collection, ids, with_payload=fields, with_vectors=vectors)

    def _ask(self, request: Callable[..., Answer], *given: Any, **named: Any) -> Answer:
        """Return the server's answer; requests may be repeated without harm: ids are made of paths."""
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        for attempt in range(TRIES):
            try:
                return request(*given, **named)
            except (ResponseHandlingException, UnexpectedResponse, ResourceExhaustedResponse) as error:
                status = getattr(error, "status_code", None)
                if (status not in (None, 429) and status < 500) or attempt == TRIES - 1:
                    reason = shown(str(getattr(error, "source", error)), 160)
                    problem = f"the collection {shown(self.collection)} can't be used: {reason}"
                    raise InputError(problem, file=self._server) from None
            time.sleep(PAUSE * 2**attempt * random.uniform(0.5, 1))  # noqa: S311  (spreads clients, no secret)
        raise AssertionError("the last attempt answers or raises")

    def _foreign(self, problem: str) -> InputError:
        return InputError(f"the collection {shown(self.collection)} {problem}: choose another one", file=self._server)


def _models() -> Any:
    try:
        from qdrant_client import models
    except ImportError:
        problem = "an index on Qdrant needs its client, of the extra `qdrant`: pip install -e '.[qdrant]'"
        raise InputError(problem) from None
    return models


def _client(address: str) -> "QdrantClient":
    from qdrant_client import QdrantClient

    try:
        return QdrantClient(url=address, timeout=60, check_compatibility=False)
    except ValueError as error:
        raise InputError(
            f"expected the address of a server, as http://localhost:6333, got {shown(address)}: {error}"
        ) from None


def to_text(path: str) -> str:
    """Return a path as it is stored: backslashes as ``\\u005c``, and so bytes that are not UTF-8; JSON has none."""
    return re.sub(r"[\\\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", path)


def from_text(text: str) -> str:
    """Return the path that `to_text` made this of."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def point_id(path: str) -> str:
    """Return the id of the point of a path."""
    return str(uuid.uuid5(NAMES, to_text(path)))


def to_payload(photo: Photo) -> dict[str, Any]:
    """Return the fields of a photo for JSON, and the folders that it lies in."""
    names = photo.path.split("/")[:-1]
    return {
        **{name: value for name, value in vars(photo).items() if name not in ("path", "look", "thumbnail")},
        "path": to_text(photo.path),
        "look": f"{photo.look:016x}",  # servers have signed integers
        "thumbnail": base64.b64encode(photo.thumbnail).decode(),
        "folders": [to_text("/".join(names[: depth + 1])) for depth in range(len(names))],
    }


def to_photo(payload: Mapping[str, Any]) -> Photo:
    """Return the photo that `to_payload` made this of; without a thumbnail if that was left out."""
    fields = {name: value for name, value in payload.items() if name != "folders"}
    fields["path"] = from_text(fields["path"])
    fields["look"] = int(fields["look"], 16)
    fields["thumbnail"] = base64.b64decode(fields.get("thumbnail", ""))
    return Photo(**fields)
