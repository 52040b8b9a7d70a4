"""Prompts: versioned text files, with separate ways to insert the project's own words and data of others."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from string import Template
from typing import Any

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import read_text

FOLDER = Path(__file__).parent / "prompts"
LARGEST = 1_000_000  # bytes of a prompt
OPENED, CLOSED = "<<<DATA {name}", "DATA {name}>>>"  # around data; data holds neither "<" nor ">"


@dataclass(frozen=True)
class Prompt:
    """A prompt with placeholders ``$name``; ``$$`` stands for a dollar sign.

    ``name``, ``version``: as the file says, for people. ``digest``: of the whole file, for provenance. ``system``: the
    instructions, which never contain data. ``user``: the question.
    """

    name: str
    version: str
    digest: str
    system: str
    user: Template

    @property
    def placeholders(self) -> set[str]:
        """The names to be filled in."""
        return set(self.user.get_identifiers())

    def fill(self, words: Mapping[str, str | int], data: Mapping[str, Any] = {}) -> str:
        """Return the user part with every placeholder filled in.

        Args:
            words: numbers, and texts of the project or of the user's settings, which become part of the prompt.
            data: values from images, captions or models. They are shown as JSON in a marked block, and can neither end
                the block nor become a placeholder.

        Raises:
            ValueError: if a placeholder has no value, or a value no placeholder.
        """
        values = {**words, **{name: quote(name, value) for name, value in data.items()}}
        twice = set(words) & set(data)
        if set(values) != self.placeholders or twice:
            raise ValueError(
                f"prompt {self.name} has the placeholders {_names(self.placeholders)}, but was given {_names(values)}"
                + (f", {_names(twice)} twice" if twice else "")
            )
        return self.user.substitute(values)


def read_prompt(path: Path) -> Prompt:
    """Read a prompt: a line ``version: ...``, then a part ``# System`` and a part ``# User``.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it has not these parts, its system part has a placeholder, or a ``$`` is no placeholder.
    """
    try:
        text = read_text(path, most=LARGEST)
    except MissingFileError:
        raise MissingFileError(f"no prompt {path}: give another file, or none for the project's own prompt") from None
    head, has_system, rest = text.partition("\n# System\n")
    system, has_user, user = rest.partition("\n# User\n")
    if not (has_system and has_user and head.startswith("version: ") and system.strip() and user.strip()):
        raise InputError("expected a line 'version: ...', then the parts '# System' and '# User'", file=path)
    for part, template in (("System", Template(system)), ("User", Template(user))):
        if not template.is_valid():
            raise InputError(
                f"a $ in the part {part} begins no placeholder: write $name, or $$ for a dollar", file=path
            )
    if Template(system).get_identifiers():
        raise InputError("the part System must have no placeholder: what varies belongs into the part User", file=path)
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    version = head.removeprefix("version: ").partition("\n")[0].strip()
    return Prompt(path.stem, version, digest, Template(system.strip()).substitute(), Template(user.strip()))


def load_prompt(
    name: str, path: Path | None = None, expected: frozenset[str] = frozenset(), setting: str | None = None
) -> Prompt:
    """Return the prompt in ``path``, or the project's own prompt ``name``.

    Raises:
        MissingFileError, InputError: as `read_prompt`, and if its placeholders are not those ``expected``; they name
            the ``setting``.
    """
    try:
        prompt = read_prompt(FOLDER / f"{name}.md" if path is None else Path(path).expanduser())
        if prompt.placeholders != expected:
            raise InputError(
                f"expected the placeholders {_names(expected)}, got {shown(_names(prompt.placeholders), 100)[1:-1]}",
                file=path or FOLDER / f"{name}.md",
            )
    except InputError as error:
        error.setting = error.setting or setting
        raise
    return prompt


def quote(name: str, value: Any) -> str:
    """Return a value as one line of JSON between marks that nothing in it can imitate."""
    text = json.dumps(value, ensure_ascii=False)
    # all of these stand inside JSON strings, where escapes are allowed: a reader of the JSON gets the same value
    safe = "".join(c if c.isprintable() and c not in "<>&`" else _escaped(c) for c in text)
    return f"{OPENED.format(name=name)}\n{safe}\n{CLOSED.format(name=name)}"


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 127 else f"\\u{ord(character):04x}"


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
