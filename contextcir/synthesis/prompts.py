"""Prompts: versioned text files, into which numbers, words of ours and data of others are put in different ways."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).parent / "prompts"
OPENED, CLOSED = "<<<DATA {name}", "DATA {name}>>>"  # around data; data holds neither "<" nor ">"


@dataclass(frozen=True)
class Prompt:
    """A prompt with placeholders ``$name``; ``$$`` stands for a dollar sign.

    ``name``, ``version``: what the file says, for people. ``digest``: of the whole file, for provenance. ``system``:
    says who is to do what, and never has data in it. ``user``: what is asked.
    """

    name: str
    version: str
    digest: str
    system: str
    user: Template

    @property
    def placeholders(self) -> set[str]:
        """What has to be filled in."""
        return set(self.user.get_identifiers())

    def fill(self, words: Mapping[str, str | int], data: Mapping[str, Any] = {}) -> str:
        """Return the user part, with every placeholder filled in.

        Args:
            words: numbers, and texts that are parts of the prompt: ours, or from the user's settings.
            data: what comes from images, captions or models. It is shown as JSON in a marked block, and can neither
                end the block nor become a placeholder, whatever is in it.

        Raises:
            ValueError: if a placeholder has no value, or a value no placeholder.
        """
        given = {**words, **{name: quote(name, value) for name, value in data.items()}}
        twice = set(words) & set(data)
        if set(given) != self.placeholders or twice:
            raise ValueError(
                f"prompt {self.name} has the placeholders {_names(self.placeholders)}, but was given {_names(given)}"
                + (f", {_names(twice)} twice" if twice else "")
            )
        return self.user.substitute(given)


def read_prompt(path: Path) -> Prompt:
    """Read a prompt: a line ``version: ...``, then a part ``# System`` and a part ``# User``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has not these parts, its system part has a placeholder, or a ``$`` is no placeholder.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no prompt {path}: change this setting, or leave it out for the one that comes along")
    text = path.read_text(encoding="utf-8")
    head, found, rest = text.partition("\n# System\n")
    system, also_found, user = rest.partition("\n# User\n")
    if not (found and also_found and head.startswith("version: ") and system.strip() and user.strip()):
        raise ValueError(f"{path}: expected a line 'version: ...', then the parts '# System' and '# User'")
    for part, template in (("System", Template(system)), ("User", Template(user))):
        if not template.is_valid():
            raise ValueError(f"{path}: a $ in the part {part} begins no placeholder: write $name, or $$ for a dollar")
    if Template(system).get_identifiers():
        raise ValueError(f"{path}: the part System must have no placeholder: what varies belongs into the part User")
    digest = blake2b(text.encode(), digest_size=8).hexdigest()
    version = head.removeprefix("version: ").partition("\n")[0].strip()
    return Prompt(path.stem, version, digest, Template(system.strip()).substitute(), Template(user.strip()))


def load_prompt(name: str, path: Path | None = None, expected: frozenset[str] = frozenset()) -> Prompt:
    """Return the prompt of a stage: that in ``path``, or the one that comes along under ``name``.

    Raises:
        FileNotFoundError, ValueError: as `read_prompt`, and if its placeholders are not those ``expected``.
    """
    prompt = read_prompt(FOLDER / f"{name}.md" if path is None else Path(path).expanduser())
    if prompt.placeholders != expected:
        raise ValueError(
            f"prompt {path or prompt.name}: expected the placeholders {_names(expected)}, got "
            f"{_names(prompt.placeholders)}"
        )
    return prompt


def quote(name: str, value: Any) -> str:
    """Return a value as one line of JSON between marks that nothing in it can look like."""
    text = json.dumps(value, ensure_ascii=False)
    # inside JSON strings only: escapes of JSON, so a reader of the JSON gets back what was there
    safe = "".join(c if c.isprintable() and c not in "<>&`" else _escaped(c) for c in text)
    return f"{OPENED.format(name=name)}\n{safe}\n{CLOSED.format(name=name)}"


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1] if ord(character) > 127 else f"\\u{ord(character):04x}"


def _names(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"
