"""The small CLIPs that come with the package: packed beside this file, unpacked once into the user's cache.

``scenes-vit`` is the embedded default. ``scenes-vit-short`` has its image tower, and a text tower of its own that has
read nothing but short descriptions; its file holds that tower only.

The packed token table has only the rows of words that the scenes benchmark uses, and all weights are in half precision.
Unpacked, it is an ordinary open_clip folder for ``local-dir:``, with the full vocabulary of CLIP's tokenizer: rows that
were not packed are zero, so other words have a position but no content.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from contextcir.errors import InputError, MissingFileError
from contextcir.weights import read_weights, state_digest
from contextcir.weights.reading import DIGEST

EMBEDDED, SHORT = "scenes-vit", "scenes-vit-short"
TOKEN_TABLE = "token_embedding.weight"  # noqa: S105  (a name of tensors, no secret)
TOKEN_ROWS = "token_rows"  # noqa: S105  (a name of tensors, no secret)
_FOLDER = Path(__file__).parent
# The files of each model, by its name; tensors of a later file replace those of an earlier one.
MODELS = {
    EMBEDDED: ("scenes_vit.safetensors",),
    SHORT: ("scenes_vit.safetensors", "scenes_vit_short.safetensors"),
}
_CONFIG = "scenes_vit.json"
_UNPACKED = "open_clip_model.safetensors"
_IMAGE_TOWER = "visual."


def pack(state: dict[str, torch.Tensor], rows: list[int], folder: Path = _FOLDER, name: str = EMBEDDED) -> Path:
    """Write weights in half precision and return the file; the token table of ``state`` has only the ``rows``.

    A model that shares its image tower leaves it out.
    """
    shared = len(MODELS[name]) > 1
    kept = {key: value for key, value in state.items() if not (shared and key.startswith(_IMAGE_TOWER))}
    packed = {key: value.detach().half().contiguous() for key, value in kept.items()}
    packed[TOKEN_ROWS] = torch.tensor(rows, dtype=torch.int32)
    file = folder / MODELS[name][-1]
    save_file(packed, file, {DIGEST: state_digest(packed)})
    return file


def packed_state(folder: Path = _FOLDER, name: str = EMBEDDED) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Read weights in single precision, and the rows of the vocabulary that their token table has."""
    state: dict[str, torch.Tensor] = {}
    for file in MODELS[name]:
        state |= {key: value.float() for key, value in read_weights(folder / file).content.items()}
    return state, state.pop(TOKEN_ROWS).long().tolist()


def config(folder: Path = _FOLDER) -> dict:
    """Read the open_clip configuration (``model_cfg`` and ``preprocess_cfg``) of all these models."""
    return json.loads((folder / _CONFIG).read_text(encoding="utf-8"))


def unpack(name: str = EMBEDDED, folder: Path = _FOLDER, cache: Path | None = None) -> Path:
    """Return a folder for open_clip's ``local-dir:``, made on first use under ``$XDG_CACHE_HOME/contextcir``.

    Raises:
        MissingFileError: if the packed weights are missing from the installation.
        InputError: if they are damaged, or the cache can't be written.
    """
    files = [folder / file for file in MODELS[name]]
    for file in files:
        if not file.is_file():
            raise MissingFileError(
                "is missing: reinstall the package, or make the file with experiments.clip", file=file
            )
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "contextcir"
    content = b"".join(file.read_bytes() for file in (*files, folder / _CONFIG))
    target = cache / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if all((target / file).is_file() for file in (_UNPACKED, "open_clip_config.json")):
        return target
    try:
        return _unpack(name, folder, cache, target)
    except OSError as error:
        reason = error.strerror or error
        problem = f"the embedded model can't be unpacked: {reason}; make room, or set XDG_CACHE_HOME to another folder"
        raise InputError(problem, file=cache) from None


def _unpack(name: str, folder: Path, cache: Path, target: Path) -> Path:
    state, rows = packed_state(folder, name)
    settings = config(folder)
    table = torch.zeros(settings["model_cfg"]["text_cfg"]["vocab_size"], state[TOKEN_TABLE].shape[1])
    table[rows] = state[TOKEN_TABLE]
    state[TOKEN_TABLE] = table  # (vocabulary, D)
    cache.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=cache))  # several processes may unpack at once: one of them renames its folder
    try:
        save_file(state, staging / _UNPACKED, {DIGEST: state_digest(state)})
        (staging / "open_clip_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
        if target.is_dir() and not (target / _UNPACKED).is_file():  # somebody removed a part of it
            shutil.rmtree(target)
        staging.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
