"""Where an index is: a folder that holds it, or a folder that names the Qdrant server that does."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextcir.checks import folder_name
from contextcir.embeddings import ABOUT, preprocess_digest, weights_digest
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import read_json, write_json
from contextcir.search.embedded import EmbeddedIndex
from contextcir.search.index import Index
from contextcir.search.photos import READING
from contextcir.training.module import ContextCIR

SERVER = "qdrant.json"  # names the server and the collection
FORMAT = 1  # raise it when an index means something else
SAME = ("format", "weights", "preprocess", "reading")  # fields of `about` that embeddings depend on


def describe(model: ContextCIR, name: str) -> dict[str, Any]:
    """Return what an index notes of the model that makes it.

    Queries need the image tower that the photos were encoded with, and its preprocessing; text tower and fusion may be
    others.
    """
    return {
        "format": FORMAT,
        "model": name,
        "weights": weights_digest(model.backbone.clip.visual),
        "preprocess": preprocess_digest(model.preprocess, "take another model", "model"),
        "reading": READING,
    }


def open_index(folder: Path) -> Index:
    """Return the index of a folder.

    Raises:
        MissingFileError: if it holds none.
        InputError: if it is damaged, or its server can't be reached.
    """
    server = _server(folder)
    if server is not None:
        from contextcir.search.qdrant import QdrantIndex

        return QdrantIndex(*server)
    if not os.path.lexists(folder / ABOUT):
        problem = f"no index in {folder}; make one: python -m experiments.search index PHOTOS --model M --out INDEX"
        raise MissingFileError(problem, setting="index")
    return EmbeddedIndex(folder)


def make_index(folder: Path, about: Mapping[str, Any], qdrant: str | None = None) -> Index:
    """Return the index of a folder, made if there is none.

    Args:
        folder: of the index.
        about: see `describe`.
        qdrant: address of the Qdrant server that is to hold it, in a collection with the folder's name; None for the
            folder itself, or the server that it names already.

    Raises:
        InputError: if something else lies there, the index is that of another model or another folder of photos, or the
            server can't be reached.
    """
    server = _server(folder)
    if server is None and qdrant is not None:
        if os.path.lexists(folder / ABOUT):
            raise InputError("holds an index itself: choose another folder for one on Qdrant", file=folder)
        server = qdrant, folder_name(folder.resolve().name, "out")
    elif qdrant is not None and server is not None and server[0] != qdrant:
        raise InputError(f"is on {shown(server[0])}, got {shown(qdrant)}", file=folder, setting="qdrant")
    if server is not None:
        index = _on_server(server, about, folder)
        write_json(folder / SERVER, {"server": server[0], "collection": server[1]})
        return index
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError("expected a folder, found a file", file=folder, setting="out")
    if os.path.lexists(folder / ABOUT):
        index = EmbeddedIndex(folder)
        check_same(index.about, about, folder)
        return index
    if folder.is_dir() and any(not name.startswith(".") for name in os.listdir(folder)):
        raise InputError("holds other files than an index: name a new folder", file=folder, setting="out")
    return EmbeddedIndex(folder, about)


def check_same(made: Mapping[str, Any], about: Mapping[str, Any], place: Path | str) -> None:
    """Check that an index can be searched, or added to, with what ``about`` describes.

    Args:
        made: what the index notes.
        about: of the model that is to be used, see `describe`; with a folder of photos, if it is to be added to.
        place: the index.

    Raises:
        InputError: if not; it ends with the command that indexes anew.
    """
    model, photos = str(about["model"]), str(made.get("folder", "PHOTOS"))
    if any(made.get(field) != about[field] for field in SAME):
        new = f"{os.path.normpath(place)}-{about['weights'][:6]}"
        command = f"python -m experiments.search index {quoted(photos)} --model {quoted(model)} --out {quoted(new)}"
        other = os.path.basename(str(made.get("model", "")))
        raise InputError(f"the index was made with another model ({shown(other, 40)[1:-1]}); for this one: {command}")
    if "folder" in about and about["folder"] != photos:
        raise InputError(f"the index is of the photos in {photos}: choose another one", file=place, setting="out")


def quoted(text: str) -> str:
    """Return a text as a shell takes it."""
    return shlex.quote(text)


def _server(folder: Path) -> tuple[str, str] | None:
    """Return the address and the collection that a folder names; None if it names none."""
    stored = read_json(folder / SERVER)
    if stored is None:
        return None
    named = [stored.get(key) if isinstance(stored, dict) else None for key in ("server", "collection")]
    if not all(isinstance(name, str) and name for name in named):
        raise InputError("expected a server and a collection", file=folder / SERVER)
    return str(named[0]), str(named[1])


def _on_server(server: tuple[str, str], about: Mapping[str, Any], folder: Path) -> Index:
    from contextcir.search.qdrant import QdrantIndex

    try:
        index = QdrantIndex(*server)
    except InputError as error:
        if not error.problem.startswith("no collection"):
            raise
        return QdrantIndex(*server, about)
    check_same(index.about, about, folder)
    return index
