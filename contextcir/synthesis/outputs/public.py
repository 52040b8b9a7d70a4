"""Which settings of a synthesis its data card shows: those of a list, and none else.

Settings may hold keys (`chat.extra`), addresses and paths of somebody's machine; a card is made to be published.
"""

import re
from collections.abc import Mapping
from typing import Any

PUBLIC = {
    "": ("seed", "links"),
    "pairs": ("source", "split", "skip_broken", "neighbours", "group", "most", "seed"),
    "pairs.encoder": ("model", "pretrained"),
    "pairs.duplicates": ("bits",),
    "pairs.search": ("most", "lists", "probes", "sample"),
    "pairs.band": ("low", "high"),
    "pairs.uses": ("as_reference", "as_target"),
    "pairs.preference": (),
    "model": ("model", "precision", "max_tokens", "corrections"),
    "model.rates": ("swapped", "invented", "left_out"),
    "model.chat": ("model", "max_tokens", "temperature", "format", "corrections"),
    "model.chat.images": ("longest_side", "largest_file", "quality"),
    "model.chat.prices": ("input", "output", "currency"),
    "model.images": ("longest_side", "largest_file", "quality"),
    "describe": ("objects",),
    "instruct": ("captions", "concepts", "styles"),
    "filters": ("most", "fewest_words", "language", "model"),
    "filters.parser": (),
    "filters.consistency": ("model", "pretrained", "margin", "slack"),
    "duplicates": ("per_run",),
    "write": ("val_share", "samples"),
    "write.phrases": (),
    "write.exports": (),
}
_PLACE = re.compile(r"(?:local-dir:)?(?:[~/.]|[A-Za-z]:[\\/]).*")  # a path instead of a name


def public(settings: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return the settings that may be published, as plain values; of a path, its last part.

    Args:
        settings: plain values, with classes as ``class_path`` and ``init_args``.
        section: dotted path of these settings among all.
    """
    shown: dict[str, Any] = {}
    if isinstance(settings.get("class_path"), str):
        shown["class_path"] = settings["class_path"].rpartition(".")[2]
        settings = settings["init_args"] if isinstance(settings.get("init_args"), Mapping) else {}
    for name, value in settings.items():
        inner = f"{section}.{name}".strip(".")
        if name in PUBLIC[section] and not isinstance(value, Mapping):
            shown[name] = _plain(value)
        elif inner in PUBLIC and isinstance(value, Mapping):
            shown[name] = public(value, inner)
        elif inner in PUBLIC and isinstance(value, list):
            shown[name] = [public(each, inner) for each in value if isinstance(each, Mapping)]
        elif inner in PUBLIC and isinstance(value, str):
            shown[name] = value.rpartition(".")[2]
    return shown


def as_lines(value: Any, depth: int = 0) -> list[str]:
    """Return plain values as lines of YAML, for people to read."""
    lines: list[str] = []
    margin = "  " * depth
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines += [f"{margin}{name}:", *as_lines(inner, depth + 1)]
        elif isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            lines.append(f"{margin}{name}:")
            for each in inner:
                first, *rest = as_lines(each, depth + 1) or [""]
                lines += [f"{margin}- {first.strip()}", *rest]
        else:
            lines.append(f"{margin}{name}: {_scalar(inner)}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value if not isinstance(each, Mapping)]
    if isinstance(value, str) and _PLACE.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return str(value) if not isinstance(value, Mapping) else "{}"
