"""The key to a model server: from the environment, used once, shown nowhere."""

import os
import re

HIDDEN = "[key]"
NO_KEY = "none"  # the client insists on one; without it, it would send OPENAI_API_KEY to whatever server it is


def read_key(variable: str | None) -> str:
    """Return the key that an environment variable holds.

    Raises:
        ValueError: if it is not set, or ``variable`` is no name of a variable (it may be a key: it is not repeated).
    """
    if variable is None:
        return NO_KEY
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable):
        raise ValueError("key_variable must be the NAME of an environment variable, such as OPENAI_API_KEY, not a key")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} is not set: export it, or set key_variable to null")
    return key


def check_url(url: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        ValueError: if it is no http address, or holds a user, a password or a query, which may be keys.
    """
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
        raise ValueError(
            "url must be like http://localhost:8000/v1, without user, password or ?parameters: a key is read from the "
            "environment variable that key_variable names"
        )
    return url.rstrip("/")


def printable(text: str, key: str = "", longest: int = 300) -> str:
    """Return a server's words for a log or a record: one line, without the key, without control characters, cut."""
    if key and key != NO_KEY:
        text = text.replace(key, HIDDEN)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\s]+", " ", text).strip()
    return text if len(text) <= longest else text[: longest - 1] + "…"
