"""Errors of OmegaConf in a user's words: what is wrong with which ``${...}``, the setting that holds it, its file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from contextcir.errors import InputError, shown
from experiments.names import SUBCOMMANDS, config_files
from experiments.yaml_files import read_yaml

MARK = "\n    full_key: "  # in all messages of OmegaConf
# What OmegaConf says, what a user can act on, and what the faulty text has.
_WORDS = (
    (
        r"Environment variable '(.*?)' not found",
        r"the environment variable \1 is not set",
        r"\${[^}]*oc\.env:\s*NAME\b",
    ),
    (r"Interpolation key '.*?' not found \(resolved to '(.*?)'\)", r"there is no setting \1", r"\${[^:}]*\bNAME}"),
    (r"Interpolation key '(.*?)' not found", r"there is no setting \1", r"\${[^:}]*\bNAME}"),
    (r"Error resolving key '(.*?)'", r"there is no setting \1", r"\${[^:}]*\bNAME}"),
    (r"Unsupported interpolation type (\S+)", r"there is no resolver \1", r"\${NAME:"),
)
_REFERENCE = re.compile(r"\${([\w.]+)}")


class Written(NamedTuple):
    """The text of a setting as a user wrote it; ``file`` is None for a flag."""

    text: str
    file: str | None


def interpolation(message: str, typed: Sequence[str]) -> InputError:
    """Return what a message of OmegaConf says about a command line that was resolved."""
    told, _, rest = message.partition(MARK)
    setting = plain_key(re.sub(r"\[(\d+)\]", r".\1", rest.splitlines()[0]))
    written = _written(typed)
    problem, pattern = (
        re.sub(r"^\w+ (raised )?while resolving interpolation: ", "", told).split(" expecting {")[0],
        None,
    )
    for said, words, faulty in _WORDS:
        if match := re.search(said, told, re.DOTALL):
            problem = match.expand(words.replace(r"\1", plain_key(match[1]).lstrip(".").replace("\\", "")))
            pattern = faulty.replace("NAME", re.escape(match[1].rpartition(".")[2]))
            break
    if "Recursive interpolation" in told:
        circle = _circle(setting, written)
        problem = f"interpolations lead back to themselves: {' -> '.join(circle)}" if circle else told
        setting = next((key for key in circle if written[key].file != written[circle[-1]].file), setting)
    if pattern is not None:
        setting = next((key for key, (text, _) in written.items() if re.search(pattern, text)), setting)
    if setting not in written:
        return InputError(problem, setting=setting)
    return InputError(f"{problem}, in {shown(written[setting].text)}", file=written[setting].file, setting=setting)


def _written(typed: Sequence[str]) -> dict[str, Written]:
    """Return the texts with interpolations by setting, what counts last first."""
    found: dict[str, Written] = {}
    for word in reversed(typed):
        name, _, value = word.lstrip("-").partition("=")
        if "${" in value:
            found.setdefault(plain_key(name), Written(value, None))
    for file in reversed(config_files(typed)):
        for key, value in dotted(read_yaml(file)):
            if isinstance(value, str) and "${" in value:
                found.setdefault(plain_key(key), Written(value, str(file)))
    return found


def _circle(start: str, written: Mapping[str, Written]) -> list[str]:
    """Return settings that refer to each other, the first one again at the end; none if it is not found."""
    path = [start]
    while path[-1] in written:
        following = [key for key in _REFERENCE.findall(written[path[-1]].text) if key in written]
        if not following:
            return []
        if following[0] in path:
            return [*path[path.index(following[0]) :], following[0]]
        path.append(following[0])
    return []


def plain_key(key: str) -> str:
    """Return a key as a user types it: without ``init_args`` and the subcommand."""
    key = ".".join(part for part in key.split(".") if part not in ("init_args", "dict_kwargs"))
    first, _, rest = key.partition(".")
    return rest if first in SUBCOMMANDS and rest else key


def dotted(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of a config with their values; items of lists by their numbers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        key = prefix.removesuffix(".") if name == "init_args" else f"{prefix}{name}"
        yield key, inner
        yield from dotted(inner, f"{key}.")
