"""A model as two files that no pickle is in: its weights as safetensors, and its settings as JSON.

The settings name the classes of this package that the model is built of, with their arguments. Since such files are
downloaded, nothing but classes of this package is built from them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import instantiate_module
from torch import Tensor

from contextcir.encoders.pretrained import weights_postponed
from contextcir.errors import InputError, shown
from contextcir.files import parse_json, read_text, write_text
from contextcir.renamed import current
from contextcir.training.checkpoint_loading import fit_to, refuse_misfit
from contextcir.training.module import ContextCIR
from contextcir.weights import checked, read_weights, state_digest
from contextcir.weights.reading import DIGEST

WEIGHTS, SETTINGS = "contextcir.safetensors", "contextcir.json"
FORMAT = 1
MOST = 1_000_000  # bytes of the settings
PARTS = ("backbone", "fusion", "contrastive", "concept", "optimizer", "encoding")
_OURS = re.compile(r"contextcir(?:\.\w+)+")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LOCAL = re.compile(r"local-dir:|^[/~.]|^[A-Za-z]:\\")


def save(settings: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> str:
    """Write both files, and return the digest of the weights, which stands in the header of the safetensors file.

    Args:
        settings: ``hyper_parameters`` of a checkpoint of ``experiments.run``.
        state: the weights.
        folder: is made if it is new.

    Raises:
        InputError: if others could not build the model: a class of another package, a folder of this machine.
    """
    from safetensors.torch import save_file

    kept = {name: value for name, value in current(settings)[0].items() if name in PARTS}
    backbone = kept.get("backbone")
    arguments = backbone.get("init_args", {}) if isinstance(backbone, Mapping) else {}
    if isinstance(arguments, dict) and isinstance(arguments.get("pretrained"), str) and "." in arguments["pretrained"]:
        # A file: its weights are in the checkpoint.
        kept["backbone"] = {**dict(backbone or {}), "init_args": {**arguments, "pretrained": None}}
    kept = json.loads(json.dumps(kept))
    check_settings(kept)
    digest = state_digest(state)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous().clone() for name, value in state.items()}, folder / WEIGHTS, {DIGEST: digest})
    content = {"format": FORMAT, "weights": digest, "model": kept}
    write_text(folder / SETTINGS, json.dumps(content, indent=2) + "\n")
    return digest


def load(folder: Path) -> ContextCIR:
    """Return the model of a folder with both files, in evaluation mode, on the CPU.

    Raises:
        MissingFileError: if a file is missing.
        InputError: if one is damaged, they do not belong together, or the settings name anything but classes of this
            package.
    """
    file = folder / SETTINGS
    content = parse_json(read_text(file, most=MOST), file)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("model"), dict):
        raise InputError(f"is no settings file of format {FORMAT}: a newer version may read it", file=file)
    settings, _ = current(content["model"], file)
    try:
        check_settings(settings)
    except InputError as error:
        raise InputError(error.problem, file=file) from None
    found = read_weights(folder / WEIGHTS)
    state = checked(found.content, found)
    if content.get("weights") != state_digest(found.content):
        raise InputError(f"its settings are of other weights than {WEIGHTS}", file=file)
    with weights_postponed():
        model: ContextCIR = instantiate_module(ContextCIR, settings)
    holder: dict[str, Any] = {"state_dict": state}
    refuse_misfit(fit_to(model, holder, found.path), holder, found.path)
    model.load_state_dict(holder["state_dict"], strict=False)
    return model.eval()


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InputError if settings name a class of another package, or a folder of one machine."""
    unknown = sorted(settings.keys() - set(PARTS))
    if unknown or "backbone" not in settings:
        raise InputError(f"expected settings of {', '.join(PARTS)}, got {shown(sorted(settings))}")
    for part, value in settings.items():
        if value is not None and not (isinstance(value, dict) and isinstance(value.get("class_path"), str)):
            raise InputError(f"{part}: expected a class and its arguments, got {shown(value)}")
        _check(value, part)


def _check(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "class_path":
                if not isinstance(inner, str) or not _OURS.fullmatch(inner):
                    raise InputError(f"{key} is {shown(inner)}, which is no class of contextcir: others can't load it")
            else:
                _check(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key)
    elif isinstance(value, str):
        if _LOCAL.search(value):
            raise InputError(f"{key} is {shown(value)}, a place on one machine: others can't load it")
        if _DOTTED.fullmatch(value):  # might be imported
            raise InputError(f"{key} is {shown(value)}, which names something to import")
