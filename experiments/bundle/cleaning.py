"""What of settings and results stays at home: paths, addresses, names of people and machines, and secrets."""

import getpass
import platform
import re
from collections.abc import Mapping
from typing import Any

PATH, ADDRESS, SECRET, NAME = "(path left out)", "(address left out)", "(left out)", "(name left out)"
_SECRET = re.compile(r"token$|secret|passw|api_?key|credential|entity|user_?name|e_?mail", re.IGNORECASE)
# Keys of models, such as `tokens`, are no secrets: only a text can be one.
_PATH = re.compile(r"""(?:^|[\s'"`,;(=:])(?:/(?=[\w.~-])|~(?:/|[\w.-]+/)|[A-Za-z]:\\|\\\\\w)|^~$""")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://|\b[\w.+-]+@[\w-]+\.\w+")
_KEY = re.compile(r"\b(?:hf|sk|ghp|gho|xox[abp]|AKIA|glpat)[-_]?[A-Za-z0-9_-]{12,}")
_COMMON = {"root", "user", "admin", "ubuntu", "runner", "localhost", "nobody", "test", "home", "docker", ""}


class Cleaner:
    """Replaces texts that must not leave the machine, and lists where they were.

    Attributes:
        removed: by reason, the dotted keys whose values were replaced, in order.
    """

    def __init__(self) -> None:
        self.removed: dict[str, list[str]] = {}
        self._names = [name for name in _own_names() if name.lower() not in _COMMON and len(name) > 2]

    def clean(self, value: Any, key: str = "") -> Any:
        """Return a value of JSON or YAML without them."""
        if isinstance(value, Mapping):
            return {self._text(str(k), key): self.clean(v, f"{key}.{k}" if key else str(k)) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item, f"{key}[{number}]") for number, item in enumerate(value)]
        return self._text(value, key) if isinstance(value, str) else value

    def notes(self) -> list[str]:
        """Return a line for each reason."""
        return [f"{reason}: {', '.join(dict.fromkeys(keys))}" for reason, keys in sorted(self.removed.items())]

    def _text(self, text: str, key: str) -> str:
        last = key.rpartition(".")[2]
        if _SECRET.search(last) and text:
            return self._replace(SECRET, "secrets and accounts", key)
        if _KEY.search(text):
            return self._replace(SECRET, "secrets and accounts", key)
        if _ADDRESS.search(text):
            return self._replace(ADDRESS, "addresses", key)
        if _PATH.search(text):
            return self._replace(PATH, "paths", key)
        if any(re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text) for name in self._names):
            return self._replace(NAME, "names of this machine and its user", key)
        return text

    def _replace(self, by: str, reason: str, key: str) -> str:
        self.removed.setdefault(reason, []).append(key)
        return by


def _own_names() -> list[str]:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container without accounts
        user = ""
    return [user, platform.node(), platform.node().partition(".")[0]]
