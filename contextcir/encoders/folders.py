"""Folders of open_clip (``local-dir:``): their configuration, checked before anything is built from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from contextcir import checks
from contextcir.errors import InputError, shown
from contextcir.files import ordinary_file, parse_json, read_text

CONFIG = "open_clip_config.json"
# Names of weights that open_clip prefers, and the endings of all others.
PREFERRED = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
ENDINGS = (".safetensors", ".bin", ".pth", ".pt")
MOST_NUMBERS = 50_000_000_000  # of a model, more than any CLIP has
MOST_PATCHES = 65_536

Check = Callable[[Any, str], Any]


def _from_to(low: int, high: int) -> Check:
    return lambda value, name: checks.whole(value, low, name, high)


def _sides(value: Any, name: str) -> Any:
    """A number of pixels, or two: height and width of images that are not square."""
    for side in value if isinstance(value, list) and len(value) == 2 else [value]:
        checks.whole(side, 1, name, 8192)
    return value


# What the classes of open_clip take where a field is left out.
_VISION: dict[str, tuple[Any, Check]] = {
    "layers": (12, _from_to(1, 1000)),
    "width": (768, _from_to(1, 100_000)),
    "head_width": (64, _from_to(1, 100_000)),
    "patch_size": (16, _from_to(1, 4096)),
    "image_size": (224, _sides),
    "mlp_ratio": (4.0, lambda value, name: checks.between(value, 0.01, 100, name)),
}
_TEXT: dict[str, tuple[Any, Check]] = {
    "layers": (12, _from_to(1, 1000)),
    "width": (512, _from_to(1, 100_000)),
    "heads": (8, _from_to(1, 10_000)),
    "context_length": (77, _from_to(3, 100_000)),
    "vocab_size": (49408, _from_to(1, 10_000_000)),
    "mlp_ratio": (4.0, lambda value, name: checks.between(value, 0.01, 100, name)),
}


def read_config(folder: Path, setting: str) -> dict[str, Any]:
    """Return the configuration of a folder.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is no JSON, or describes no model that could be built; with the name of the field.
    """
    file = folder / CONFIG
    config = parse_json(read_text(file, setting, most=1_000_000), file, setting)
    try:
        model = _object(config, "", "model_cfg")
        checks.whole(model.get("embed_dim", 0), 1, "model_cfg.embed_dim", 100_000)
        vision, text = _object(model, "model_cfg.", "vision_cfg"), _object(model, "model_cfg.", "text_cfg")
        preprocess = config.get("preprocess_cfg") or {}
        if "timm_model_name" not in vision and not isinstance(vision.get("layers"), list):  # refused by their towers
            _check_sizes(vision, text)
        _check_preprocess(preprocess)
    except InputError as error:
        raise InputError(error.problem, file=file, field=error.field or error.setting, setting=setting) from None
    return config


def weights_file(folder: Path, setting: str) -> Path:
    """Return the file of weights in a folder, safetensors if there is a choice.

    Raises:
        InputError: if there is none, or if open_clip would have to guess which one is meant.
    """
    for name in PREFERRED:
        if (folder / name).exists():
            return ordinary_file(folder / name, setting)
    others = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS)
    if len(others) != 1:
        found = ", ".join(file.name for file in others[:3]) or "none"
        problem = f"cannot load the weights: expected one file of weights, such as {PREFERRED[0]}, found {found}"
        raise InputError(problem, file=folder, setting=setting)
    return ordinary_file(others[0], setting)


def _object(owner: Any, place: str, name: str) -> dict[str, Any]:
    value = owner.get(name) if isinstance(owner, dict) else None
    if not isinstance(value, dict):
        raise InputError(f"must be an object, not {shown(value)}", field=f"{place}{name}")
    return value


def _check_sizes(vision: dict[str, Any], text: dict[str, Any]) -> None:
    sizes = {
        part: {name: check(given.get(name, usual), f"model_cfg.{part}.{name}") for name, (usual, check) in of.items()}
        for part, given, of in (("vision_cfg", vision, _VISION), ("text_cfg", text, _TEXT))
    }
    image, words = sizes["vision_cfg"], sizes["text_cfg"]
    _divides(image["head_width"], image["width"], "vision_cfg.head_width", "the width")
    _divides(words["heads"], words["width"], "text_cfg.heads", "the width")
    sides = image["image_size"] if isinstance(image["image_size"], list) else [image["image_size"]] * 2
    patches = (sides[0] // image["patch_size"]) * (sides[1] // image["patch_size"])
    if not 0 < patches <= MOST_PATCHES:
        problem = f"is {image['image_size']}, which makes {patches:,} patches of {image['patch_size']} pixels"
        raise InputError(problem, field="model_cfg.vision_cfg.image_size")
    numbers = sum(part["layers"] * part["width"] ** 2 * (4 + 2 * part["mlp_ratio"]) for part in sizes.values())
    numbers += words["vocab_size"] * words["width"]
    if numbers > MOST_NUMBERS:
        raise InputError(f"describes a model of {numbers:,.0f} numbers", field="model_cfg")


def _divides(part: int, whole: int, field: str, of: str) -> None:
    if whole % part:
        raise InputError(f"is {part}, which does not divide {of}, {whole}", field=f"model_cfg.{field}")


def _check_preprocess(settings: Any) -> None:
    if not isinstance(settings, dict):
        raise InputError(f"must be an object, not {shown(settings)}", field="preprocess_cfg")
    rules: dict[str, Check] = {"mean": checks.finite, "std": checks.positive}
    for name, check in rules.items():
        values = settings.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != 3:
            raise InputError(f"must be three numbers, not {shown(values)}", field=f"preprocess_cfg.{name}")
        for value in values:
            check(value, f"preprocess_cfg.{name}")
    for name, known in (
        ("interpolation", ("bicubic", "bilinear", "random")),
        ("resize_mode", ("shortest", "longest", "squash")),
        ("mode", ("RGB",)),
    ):
        if settings.get(name) is not None:
            checks.one_of(settings[name], known, f"preprocess_cfg.{name}")
