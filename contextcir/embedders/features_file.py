"""Embeddings in a file that any program may have made: safetensors, with the ids of its rows.

A file has a matrix of floats for each kind: ``gallery`` (G, E) and ``query`` (Q, E), and optionally ``image`` and
``text`` (Q, E), the parts of the queries embedded alone. Its metadata (texts, as safetensors has them) are ``format``,
``name``, and optionally ``revision``, ``licence``, ``instruction``, ``document_instruction`` and ``template``, and
``settings``, JSON of whatever else was set; and, as JSON lists of texts in the order of the rows, ``gallery_ids`` and
``query_ids``, which ``image`` and ``text`` share.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from contextcir.embedders.base import IMAGE, PLACE, TEXT, EmbeddingSource, check_template
from contextcir.errors import InputError, shown
from contextcir.evaluation.protocol import Protocol
from contextcir.files import ordinary_file, parse_json, whole_file

FORMAT = "contextcir-features-1"
GALLERY, QUERY = "gallery", "query"
KINDS = (GALLERY, QUERY, IMAGE, TEXT)
TOLD = ("name", "revision", "licence", "instruction", "document_instruction", "template")
TYPES = (torch.float16, torch.bfloat16, torch.float32)
SETTING = "embedder.file"


class FeaturesFile(EmbeddingSource):
    """Embeddings that were made elsewhere; the file says of which model.

    Args:
        file: of safetensors, see `contextcir.embedders.features_file`.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is damaged, or of another form.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = ordinary_file(file, SETTING)
        self.tensors, told = _read(self.file)
        self.ids = {kind: self._read_ids(told, f"{kind}_ids") for kind in (GALLERY, QUERY)}
        for kind in (GALLERY, QUERY):
            if kind not in self.tensors:
                self._fail(f"has no tensor {kind!r}; there are {', '.join(sorted(self.tensors)) or 'none'}")
        for kind, rows in self.tensors.items():
            self._check(kind, rows)
        if not told.get("name", "").strip():
            self._fail("its metadata have no name of the model")
        self.name = told["name"]
        self.revision, self.licence = told.get("revision"), told.get("licence")
        self.instruction, self.document_instruction = told.get("instruction"), told.get("document_instruction")
        self.template = check_template(told.get("template", PLACE), SETTING)
        self.parts = tuple(part for part in (IMAGE, TEXT) if part in self.tensors)
        self._settings = parse_json(told["settings"], self.file) if "settings" in told else None
        counted = self._settings.get("parameters") if isinstance(self._settings, dict) else None
        self.parameters = counted if type(counted) is int else None
        self._place: dict[str, dict[str, int]] = {}

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        return self.tensors[GALLERY].shape[1]

    def settings(self) -> dict[str, Any]:
        """Return the digest of the file, and what its maker has set besides."""
        with open(self.file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return {"file": self.file.name, "sha256": digest, "settings": self._settings}

    def require(self, kind: str, ids: Sequence[str]) -> None:
        """Raise InputError unless a kind has a usable row for each of these ids."""
        more = "`python -m experiments.features check` lists all that is wrong"
        if problems := self.problems(kind):
            self._fail(f"{problems[0]}: {more}")
        places = self._places(kind)
        lacking = [name for name in ids if name not in places]
        if lacking:
            what = "images" if kind == GALLERY else "queries"
            first = shown(lacking[0])
            self._fail(f"lacks {len(lacking):,} of {len(ids):,} {what}, the first is {first}: {more}")

    def problems(self, kind: str) -> list[str]:
        """Return what is wrong with the rows of a kind, whatever the benchmark; one line each."""
        ids, rows, found = self.ids_of(kind), self.tensors[kind], []
        doubled = [name for name, times in Counter(ids).items() if times > 1]
        for what, names in (
            ("ids stand twice or more", doubled),
            ("rows hold NaN or infinity", [ids[row] for row in _places_of(~rows.isfinite().all(1))]),
            ("rows are all zeros", [ids[row] for row in _places_of(~rows.any(1))]),
        ):
            if names:
                found.append(f"{kind}: {len(names):,} {what}, the first is {shown(names[0])}")
        return found

    def rows(self, kind: str, ids: Sequence[str]) -> Tensor:
        """Return the embeddings (B, E) float32 of ids that are there, of a kind."""
        places = self._places(kind)
        return self.tensors[kind][[places[name] for name in ids]].float()

    def ids_of(self, kind: str) -> list[str]:
        """Return the ids of the rows of a kind."""
        return self.ids[GALLERY if kind == GALLERY else QUERY]

    def _places(self, kind: str) -> dict[str, int]:
        key = GALLERY if kind == GALLERY else QUERY
        if key not in self._place:
            self._place[key] = {name: row for row, name in enumerate(self.ids[key])}
        return self._place[key]

    def _read_ids(self, told: Mapping[str, str], field: str) -> list[str]:
        ids = parse_json(told[field], self.file) if field in told else None
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            self._fail(f"expected a JSON list of texts as {field} in its metadata")
        return ids

    def _check(self, kind: str, rows: Tensor) -> None:
        if kind not in KINDS:
            self._fail(f"has a tensor {shown(kind)}; expected {', '.join(KINDS)}")
        count = len(self.ids_of(kind))
        if rows.ndim != 2 or len(rows) != count or rows.shape[1] < 1:
            told = " x ".join(map(str, rows.shape))
            self._fail(f"{kind}: expected a row for each of {count:,} ids, got a tensor of {told}")
        if rows.shape[1] != self.tensors[GALLERY].shape[-1]:
            self._fail(f"{kind}: embeddings of {rows.shape[1]} numbers, {self.tensors[GALLERY].shape[-1]} in gallery")
        if rows.dtype not in TYPES:
            self._fail(f"{kind}: expected floats (F16, BF16 or F32), got {str(rows.dtype).removeprefix('torch.')}")

    def _fail(self, problem: str) -> NoReturn:
        raise InputError(problem, file=self.file, setting=SETTING)


def _places_of(flags: Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()


def query_id(protocol: Protocol, query: int, view: int = 0) -> str:
    """Return the id of a query in files of features: ``SPLIT/ID``, with ``/VIEW`` where a query has several texts."""
    plain = f"{protocol.split}/{query}"
    return plain if protocol.query_views == 1 else f"{plain}/{view}"


def write_features(
    path: Path, told: Mapping[str, Any], gallery: tuple[Sequence[str], Tensor], queries: Mapping[str, Any]
) -> None:
    """Write a file of features.

    Args:
        path: of the file.
        told: of the model, as of `EmbeddingSource.describe`; what is None is left out.
        gallery: ids of the images, and their embeddings (G, E).
        queries: ``ids``, and by kind (``query``, and maybe ``image`` and ``text``) embeddings (Q, E).
    """
    from safetensors.torch import save

    names, rows = gallery
    tensors = {GALLERY: rows.contiguous(), **{k: v.contiguous() for k, v in queries.items() if k != "ids"}}
    metadata = {field: str(told[field]) for field in TOLD if told.get(field) is not None}
    more = {field: value for field, value in told.items() if field not in (*TOLD, "dimension")}
    metadata["settings"] = json.dumps(more)
    metadata |= {"format": FORMAT, "gallery_ids": json.dumps(list(names)), "query_ids": json.dumps(queries["ids"])}
    with whole_file(path) as file:
        file.write(save(tensors, metadata))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
    except (SafetensorError, OSError, ValueError) as error:
        problem = f"is no file of safetensors: {' '.join(str(error).split())[:120]}"
        raise InputError(problem, file=path, setting=SETTING) from None
    if told.get("format") != FORMAT:
        problem = f"expected {FORMAT} as format in its metadata, got {shown(told.get('format'))}"
        raise InputError(problem, file=path, setting=SETTING)
    return tensors, told
