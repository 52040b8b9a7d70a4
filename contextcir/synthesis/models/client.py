"""The HTTP client of a model server: its key, the bound on the size of responses, and what went wrong.

The key comes from the environment, goes into one header, and is removed from everything that is kept. No exception of
the client library is passed on, because it may hold the key.
"""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from contextcir import errors
from contextcir.errors import InputError
from contextcir.synthesis.models.pacing import retry_after

HIDDEN = "[key]"
NO_KEY = "none"  # the client library insists on a key; without one it would send OPENAI_API_KEY to any server
WORDS = 120  # characters of a server's words in an error that has more to say
LARGEST = 4_000_000  # bytes of a response
HEADERS = frozenset(
    [
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
        "content-type",
        "content-length",
        "transfer-encoding",
    ]
)


class TooLarge(Exception):
    """A response of more bytes than any answer has."""


class Redirected(Exception):
    """A redirect that is not followed; the text says where it would lead."""


class ServerError(InputError):
    """The server takes no request at all with these settings (key, address, model), or it is gone."""


@dataclass(frozen=True)
class RequestFailure:
    """Why a request has no response.

    ``retry``: whether sending it again may help. ``retry_after``: seconds that the server demands. ``paid``: whether
    the server may have done the work. ``lost``: whether the server itself may be gone. ``fatal``: the error to raise
    where all requests fail alike. ``dialect``: whether the server may have refused the parameters.
    """

    reason: str
    detail: str
    retry: bool = False
    retry_after: float | None = None
    paid: bool = False
    lost: bool = False
    fatal: ServerError | None = None
    dialect: bool = False


def read_key(variable: str | None) -> str:
    """Return the key that an environment variable holds.

    Raises:
        InputError: if it is not set, or ``variable`` is no name of a variable (it may be a key: it is not repeated).
    """
    if variable is None:
        return NO_KEY
    if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", variable):
        raise InputError(
            "expected the NAME of an environment variable, such as OPENAI_API_KEY, not a key",
            setting="model.key_variable",
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(
            f"the environment variable {variable} is not set: export it, or set this to null",
            setting="model.key_variable",
        )
    return key


def check_url(url: str) -> str:
    """Return the address of a server without a slash at its end.

    Raises:
        InputError: if it is no http address, or holds a user, a password or a query, which may be keys.
    """
    if not re.fullmatch(r"https?://(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?(?:/[^\s?#@]*)?", url):
        raise InputError(
            "expected an address like http://localhost:8000/v1, without user, password or ?parameters: a key is read "
            "from the environment variable that key_variable names",
            setting="model.url",
        )
    return url.rstrip("/")


def origin(url: Any) -> str:
    """Return scheme, host and port of an address of `httpx2.URL`: what a key is given to."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{url.host.lower()}:{port}"


def redacted(text: str, hidden: str | Sequence[str]) -> str:
    """Return a text without keys, also where they are quoted for an address or JSON, or in other letter case."""
    for key in [hidden] if isinstance(hidden, str) else hidden:
        if key and key != NO_KEY:
            for form in {key, quote(key, safe=""), json.dumps(key)[1:-1]}:
                text = re.sub(re.escape(form), HIDDEN, text, flags=re.IGNORECASE)
    return text


def printable(text: str, hidden: str | Sequence[str] = (), longest: int = 300) -> str:
    """Return a server's words for a log or a record: one line, without keys, without control characters, cut."""
    text = redacted(text, hidden)
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069\s]+", " ", text)
    text = errors.printable(text.strip())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def connect(url: str, key_variable: str | None, timeout: float, connections: int) -> tuple[Any, str]:
    """Return a client of a server, and the key, which has to be removed from all that is kept.

    The key goes to scheme, host and port of the address alone: redirects to others are not followed. Proxies of the
    environment are used for https, where they see no key, and not for http.

    Raises:
        InputError: if the extra is not installed, or there is no such key.
    """
    httpx2, openai = libraries()
    key = read_key(key_variable)
    for name in ("openai", "httpx2", "httpx"):  # they log requests: addresses, and at DEBUG whole prompts
        logging.getLogger(name).setLevel(logging.WARNING)
    own = origin(httpx2.URL(url))

    async def own_headers(request: Any) -> None:
        if origin(request.url) != own:
            raise Redirected(f"it redirects to another address, {origin(request.url)}, which is not followed")
        if request.method != "POST":  # 301, 302 and 303 make a GET of it
            raise Redirected("it redirects to another path of its own: give that address")
        # OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS and the like are for that vendor: another server must not see them
        if key_variable != "OPENAI_API_KEY":
            for name in [name for name in request.headers if name.lower() not in HEADERS]:
                del request.headers[name]
            request.headers["authorization"] = f"Bearer {key}"

    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    transport = openai.DefaultAsyncHttpxClient(
        limits=limits,
        event_hooks={"request": [own_headers], "response": [_bound]},
        trust_env=url.startswith("https://"),
    )
    client = openai.AsyncOpenAI(
        base_url=check_url(url),
        api_key=key,
        admin_api_key="",  # otherwise read from OPENAI_ADMIN_KEY
        timeout=httpx2.Timeout(timeout, connect=min(10.0, timeout)),
        max_retries=0,
        http_client=transport,
        default_headers={"accept-encoding": "identity"},  # so that the bound on bytes is one on memory
    )
    return client, key


def libraries() -> tuple[Any, Any]:
    """Return httpx2 and openai; raises InputError if they are not installed."""
    try:
        import httpx2  # with openai, of the extra `synthesis`
        import openai
    except ImportError:
        raise InputError("a model server needs the extra `synthesis`: pip install -e '.[synthesis]'") from None
    return httpx2, openai


async def _bound(response: Any) -> None:
    """Let a response be read only up to `LARGEST`."""
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __aiter__(self) -> Any:
            size = 0
            async for part in self.inner:
                size += len(part)
                if size > LARGEST:
                    raise TooLarge
                yield part

        async def aclose(self) -> None:
            await self.inner.aclose()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise TooLarge
    response.stream = Bounded(response.stream)


def classify(error: Exception, url: str, hidden: str | Sequence[str], variable: str | None) -> RequestFailure:
    """Return what an exception of the client, or a time-out, means for a request; ``hidden``: keys."""
    import httpx2
    import openai

    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error  # bodies are read unwrapped
    if isinstance(cause, TooLarge):
        return RequestFailure("too large", f"a response of more than {LARGEST:,} bytes", paid=True)
    if isinstance(cause, Redirected | httpx2.TooManyRedirects):
        told = str(cause) if isinstance(cause, Redirected) else "it redirects in a circle"
        elsewhere = ServerError(f"{url} takes no requests: {told}", setting="model.url")
        return RequestFailure("redirected", told, fatal=elsewhere)
    if isinstance(error, TimeoutError | openai.APITimeoutError | httpx2.TimeoutException):
        return RequestFailure("timed out", "", retry=True, paid=True, lost=True)
    if isinstance(error, openai.APIConnectionError | httpx2.HTTPError):
        refused = isinstance(cause, httpx2.ConnectError)
        detail = printable(f"{type(cause).__name__}: {cause}", hidden)
        return RequestFailure("connection", detail, retry=True, paid=not refused, lost=True)
    if isinstance(error, openai.APIStatusError):
        message = printable(_message(error), hidden)
        return _status(error.status_code, error.code, message, error.response.headers, url, variable)
    if isinstance(error, openai.OpenAIError | UnicodeError):
        return RequestFailure("no completion", printable(str(error), hidden), paid=True)
    raise error


def _message(error: Any) -> str:
    """Return the server's own words in an error of the client library."""
    body = error.body
    for name in ("error", "message", "detail"):  # OpenAI's form, and that of FastAPI
        inner = body.get(name) if isinstance(body, dict) else None
        body = inner if inner else body
    if isinstance(body, str) and body.strip():
        return body
    return json.dumps(body) if isinstance(body, list) and body else str(error.message)


def _status(
    status: int, code: str | None, message: str, headers: Mapping[str, str], url: str, variable: str | None
) -> RequestFailure:
    if status == 429 and code == "insufficient_quota":
        spent = ServerError(f"{url} says that its quota is used up: {message[:WORDS]}")
        return RequestFailure("rate limited", message, fatal=spent)
    if status in (408, 409, 425, 429):
        reason = "rate limited" if status == 429 else "server error"
        return RequestFailure(reason, message, retry=True, retry_after=retry_after(headers))
    if status in (401, 403):
        what = "requests without a key" if variable is None else f"the key of {variable}"
        refused = ServerError(f"{url} refuses {what} ({status}): {message[:WORDS]}", setting="model.key_variable")
        return RequestFailure("refused", message, fatal=refused)
    if status == 404:
        unknown = ServerError(
            f"{url} does not know the model or the address (404): {message[:WORDS]}: change chat.model or url",
            setting="model",
        )
        return RequestFailure("bad request", message, fatal=unknown)
    if status == 413:
        return RequestFailure("bad request", f"the request is too large: lower images.longest_side: {message}")
    if status >= 500 and status != 501:
        after = retry_after(headers)
        return RequestFailure("server error", f"{status}: {message}", retry=True, retry_after=after, lost=True)
    return RequestFailure("bad request", f"{status}: {message}", dialect=True)
