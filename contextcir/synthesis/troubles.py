"""What went wrong with a request, and what to do: nothing of the client's exceptions is passed on."""

from dataclasses import dataclass
from typing import Any

from contextcir.synthesis.keys import printable
from contextcir.synthesis.retries import retry_after

LARGEST = 4_000_000  # bytes of a response


@dataclass(frozen=True)
class Trouble:
    """Why there is no response.

    ``again``: whether sending it again may help. ``wait``: seconds that the server asks for. ``paid``: whether the
    server may have done the work. ``lost``: whether the server itself may be gone. ``fatal``: what to tell the user
    where it is the same for all requests.
    """

    reason: str
    detail: str
    again: bool = False
    wait: float | None = None
    paid: bool = False
    lost: bool = False
    fatal: str | None = None
    dialect: bool = False


class TooLarge(Exception):
    """A response of more bytes than any answer has."""


class ServerError(ValueError):
    """The server takes no request at all as it is set up (key, address, name of the model), or it is gone."""


def trouble_of(error: Exception, url: str, key: str, variable: str | None) -> Trouble:
    """Return what an exception of the client, or a time-out, is."""
    import httpx2
    import openai

    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error  # bodies are read unwrapped
    if isinstance(cause, TooLarge):
        return Trouble("too large", f"a response of more than {LARGEST:,} bytes", paid=True)
    if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
        return Trouble("timed out", "", again=True, paid=True, lost=True)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        refused = isinstance(cause, httpx2.ConnectError)
        detail = printable(f"{type(cause).__name__}: {cause}", key)
        return Trouble("connection", detail, again=True, paid=not refused, lost=True)
    if isinstance(error, openai.APIStatusError):
        return _status(error, url, key, variable)
    if isinstance(error, openai.OpenAIError | UnicodeError):
        return Trouble("no completion", printable(str(error), key), paid=True)
    raise error


def _status(error: Any, url: str, key: str, variable: str | None) -> Trouble:
    status = error.status_code
    said = printable(str(error.message), key)
    if status == 429 and error.code == "insufficient_quota":
        return Trouble("rate limited", said, fatal=f"{url} says that its quota is used up: {said}")
    if status in (408, 409, 425, 429):
        reason = "rate limited" if status == 429 else "server error"
        return Trouble(reason, said, again=True, wait=retry_after(error.response.headers))
    if status in (401, 403):
        return Trouble(
            "refused", said, fatal=f"{url} refuses the key of {variable or 'key_variable: null'} ({status}): {said}"
        )
    if status == 404:
        return Trouble(
            "bad request",
            said,
            fatal=f"{url} does not know the model or the address (404): {said}: change model or url",
        )
    if status == 413:
        return Trouble("bad request", f"the request is too large: lower images.longest_side: {said}")
    if status >= 500 and status != 501:
        return Trouble(
            "server error", f"{status}: {said}", again=True, wait=retry_after(error.response.headers), lost=True
        )
    return Trouble("bad request", f"{status}: {said}", dialect=True)
