"""A client of a model server: with our key and no other, and responses of a bounded size."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from contextcir.synthesis.keys import check_url, read_key
from contextcir.synthesis.troubles import LARGEST, TooLarge

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
