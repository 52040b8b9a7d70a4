"""Any model by its name or its place: checkpoints of this project, published ones, the Hub's, and plain CLIPs."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from contextcir import assets
from contextcir.encoders.backbone import OpenCLIPBackbone
from contextcir.encoders.downloads import hub_file
from contextcir.encoders.folders import CONFIG
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.fusion.baselines import Sum
from contextcir.training import hub_files, reference
from contextcir.training.module import ContextCIR
from contextcir.weights import read_weights

SETTING = "model"
HUB = "hf-hub:"
HUB_FILES = (hub_files.WEIGHTS, "contextcir.ckpt", "model.ckpt", reference.WEIGHTS)
CHECKPOINTS = "checkpoints"  # folder of a run
RESUME = "resume-step="  # begins the names of resume points, which are not chosen by their figures
BEST = "best_model_path"  # what Lightning's ModelCheckpoint notes


def load(model: str | Path) -> ContextCIR:
    """Return a model in evaluation mode, on the CPU.

    Args:
        model: one of these:

            - a checkpoint of ``experiments.run``, or the folder of a run, of which the best checkpoint is taken;
            - a published checkpoint of ConText-CIR: a file, or a folder with ``state_dict.safetensors`` and
              ``case.json``;
            - a folder that ``experiments.hub push`` wrote, with weights as safetensors and settings as JSON;
            - ``hf-hub:OWNER/NAME``, a repository that holds one of these (as `HUB_FILES`);
            - the name of a CLIP that comes with the package, such as ``scenes-vit``, or a folder of open_clip: queries
              then are the sum of both embeddings.

    Settings in a checkpoint of ``experiments.run`` name classes: trust it as a config. The encoders' own weights, which
    a checkpoint replaces, are neither read nor downloaded.

    Raises:
        MissingFileError: if there is no such file or folder.
        InputError: if it can't be used.
    """
    name = os.fspath(model)
    if not name.strip():
        raise InputError("expected a checkpoint, the folder of a run, or a model's name; got an empty text")
    if name in assets.MODELS and not os.path.lexists(name):
        return _plain(name)
    if name.startswith(HUB):
        return load(_from_hub(name))
    path = Path(name).expanduser()
    if not path.is_dir():
        if not os.path.lexists(path) and ":" not in name:  # an address is refused as such
            names = ", ".join(assets.MODELS)
            problem = f"no file or folder {shown(name, 150)[1:-1]}, and no model of this name (there are {names})"
            raise MissingFileError(problem, setting=SETTING)
        return _of_file(path)
    if os.path.lexists(path / hub_files.WEIGHTS):
        return hub_files.load(path)
    if os.path.lexists(path / reference.WEIGHTS):
        return reference.load(path)
    if os.path.lexists(path / CONFIG):
        return _plain(f"local-dir:{path}")
    return _of_file(best_checkpoint(path))


def best_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run: the one that ModelCheckpoint kept, else the last point to resume from.

    ``folder``: of the run, or of its checkpoints.

    Raises:
        MissingFileError: if it holds none.
    """
    own = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder
    files = sorted(
        (file for file in own.glob("*.ckpt") if file.is_file() and not file.is_symlink()),
        key=lambda file: file.stat().st_mtime_ns,
        reverse=True,
    )
    kept = [file for file in files if not file.name.startswith(RESUME)]
    if not files:
        problem = f"no checkpoint in the folder {folder}: expected that of a run, or {reference.WEIGHTS}"
        raise MissingFileError(problem, setting=SETTING)
    if len(kept) < 2:
        return (kept or files)[0]
    noted = _noted(kept[0])
    return next((file for file in kept if file.name == noted), kept[0])


def _noted(file: Path) -> str | None:
    """Return the name of the best checkpoint, as a checkpoint notes it."""
    content = read_weights(file, SETTING).content
    callbacks = content.get("callbacks") if isinstance(content, Mapping) else None
    states: list[Any] = list(callbacks.values()) if isinstance(callbacks, Mapping) else []
    paths = [state.get(BEST) for state in states if isinstance(state, Mapping)]
    return next((os.path.basename(path) for path in paths if isinstance(path, str) and path), None)


def _of_file(path: Path) -> ContextCIR:
    try:
        content = read_weights(path, SETTING).content
        settings = content.get(ContextCIR.CHECKPOINT_HYPER_PARAMS_KEY) if isinstance(content, Mapping) else None
        if isinstance(settings, Mapping) and "backbone" in settings:  # published ones may have settings of their own
            return ContextCIR.load_from_checkpoint(path, map_location="cpu").eval()
        return reference.load_checkpoint(path)
    except InputError as error:
        raise error.relocate("checkpoint_path", SETTING) from None


def _plain(name: str) -> ContextCIR:
    try:
        return ContextCIR(OpenCLIPBackbone(name), partial(Sum)).eval()
    except InputError as error:
        raise error.relocate("model.backbone", SETTING) from None


def _from_hub(name: str) -> Path:
    repository = name.removeprefix(HUB)
    file = hub_file(repository, HUB_FILES, "the files of the checkpoint", "give a file", SETTING)
    if file.name == hub_files.WEIGHTS:
        return hub_file(repository, (hub_files.SETTINGS,), "its settings", "give a file", SETTING).parent
    if file.name == reference.WEIGHTS:  # its settings, which may be derived without
        try:
            hub_file(repository, (reference.CASE,), "its settings", "give a file", SETTING)
        except InputError:
            return file
        return file.parent
    return file
