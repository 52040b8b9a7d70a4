"""A client of a model server: with our key and no other, and responses of a bounded size.

The key to a model server: from the environment, used once, shown nowhere.


What went wrong with a request, and what to do: nothing of the client's exceptions is passed on.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from contextcir.synthesis.models.pacing import retry_after

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


LARGEST = 4_000_000  # bytes of a response
LARGEST_FILE = 1_000_000_000  # bytes of the results of a batch
HEADERS = (
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "user-agent",
    "content-type",
    "content-length",
    "transfer-encoding",
)
_allowed: ContextVar[int] = ContextVar("allowed", default=LARGEST)


def connect(url: str, key_variable: str | None, timeout: float, connections: int) -> tuple[Any, str]:
    """Return a client of a server, and the key, to be taken out of all that is kept.

    Raises:
        ValueError: if the extra is not installed, or there is no such key.
    """
    try:
        import httpx2
        import openai
    except ImportError:
        raise ValueError("a model server needs the extra `synthesis`: pip install -e '.[synthesis]'") from None
    key = read_key(key_variable)
    for name in ("openai", "httpx2", "httpx"):  # they log requests: addresses, and at DEBUG whole prompts
        logging.getLogger(name).setLevel(logging.WARNING)

    async def own_headers(request: Any) -> None:
        # OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS and the like are for that vendor: another server must not see them
        if key_variable != "OPENAI_API_KEY":
            for name in [name for name in request.headers if name.lower() not in HEADERS]:
                del request.headers[name]
            request.headers["authorization"] = f"Bearer {key}"

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    transport = openai.DefaultAsyncHttpxClient(
        limits=limits, event_hooks={"request": [own_headers], "response": [_bound]}
    )
    client = openai.AsyncOpenAI(
        base_url=check_url(url),
        api_key=key,
        admin_api_key="",  # else of OPENAI_ADMIN_KEY, and never meant for this
        timeout=httpx2.Timeout(timeout, connect=min(10.0, timeout)),
        max_retries=0,
        http_client=transport,
        default_headers={"accept-encoding": "identity"},  # so that the bound on bytes is one on memory
    )
    return client, key


@contextmanager
def allowing(size: int) -> Iterator[None]:
    """Allow responses of so many bytes."""
    token = _allowed.set(size)
    try:
        yield
    finally:
        _allowed.reset(token)


async def _bound(response: Any) -> None:
    """Let a response be read only up to a size."""
    import httpx2

    largest = _allowed.get()

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __aiter__(self) -> Any:
            size = 0
            async for part in self.inner:
                size += len(part)
                if size > largest:
                    raise TooLarge
                yield part

        async def aclose(self) -> None:
            await self.inner.aclose()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise TooLarge
    response.stream = Bounded(response.stream)


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
