"""Sending a folder to the Hub. The token is the client's own business: it is neither taken, kept nor shown here."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, one_line
from contextcir.network import unreachable

PROBE = 5.0  # seconds in which the server has to answer
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_TOKENS = re.compile(r"\b(?:hf|api)_[A-Za-z0-9_-]{4,}|(?i:bearer)\s+\S+|(?<=://)[^/\s@]+@")
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN")


def check_name(repository: str) -> str:
    """Return a name of the form ``OWNER/NAME``; raise InputError for another one."""
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise InputError(f"expected OWNER/NAME, got {one_line(without_token(repository), 60)!r}", setting="repository")
    return repository


def send(folder: Path, repository: str, private: bool = False) -> str:
    """Make the repository if it is new, send all files of the folder in one commit, and return its address.

    Raises:
        InputError: if the server can't be reached, or refuses; nothing in the message is a token.
    """
    import huggingface_hub as hub  # here: it takes time to import
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set: nothing can be sent")
    silent = unreachable([constants.ENDPOINT], PROBE)
    if silent is not None:
        raise InputError(f"{without_token(silent[0])} can't be reached ({silent[1]}): nothing was sent")
    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    api: Any = hub.HfApi()
    try:
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message="Weights, settings and card"
        )
    except Exception as error:  # the client's, and its transport's
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = ": log in with `hf auth login`, or set HF_TOKEN to one that may write" if status in (401, 403) else ""
        reason = one_line(without_token(str(error)), 120) or type(error).__name__
        raise InputError(f"the Hub refused {repository}{hint} ({reason})") from None
    return without_token(str(getattr(done, "commit_url", done)))


def without_token(text: str) -> str:
    """Return a text without anything that is, or looks like, a token."""
    for name in _VARIABLES:
        token = os.environ.get(name, "").strip()
        if len(token) > 3:
            text = text.replace(token, "(token)")
    return _TOKENS.sub("(token)", text)
