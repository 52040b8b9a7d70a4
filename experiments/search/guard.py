"""Who may ask the search page's server, how much, and what a browser may do with its answers.

Photos are private, and every page that a browser has open can send requests to 127.0.0.1. So the server answers only
under the names of this machine, which a foreign name that was rebound to 127.0.0.1 does not have; it answers no
request that another site's page has made; and elsewhere than on this machine, nobody without the token.
"""

import hmac
import json
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from contextcir.errors import InputError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "contextcir_token"
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def check_token(token: str | None, hosts: Collection[str] | None) -> None:
    """Raise an `InputError` for a token that no cookie can hold or that is soon guessed, or for none that is needed.

    See `Guard` for the arguments.
    """
    if hosts is None and not token:
        raise InputError("a server that other machines can reach needs a token", setting="token")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~-]{8,200}", token):
        raise InputError("expected a token of 8 to 200 letters, digits, '-', '_', '.' and '~'", setting="token")


class Guard:
    """Lets an ASGI application answer only those who may ask, and sets the headers that restrict browsers.

    Args:
        app: the application.
        token: that a client has to give, as ``Authorization: Bearer``, as a cookie, or once as ``?token=``, which sets
            the cookie; None for none.
        hosts: names that the server may be called by, without port; None for any.
        most: bytes of a request's body.
    """

    def __init__(self, app: App, token: str | None, hosts: Collection[str] | None, most: int) -> None:
        self._app = app
        self._token = token
        self._hosts = None if hosts is None else {name.lower() for name in hosts}
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        send = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _error(send, *refusal)
        elif self._token is not None and (location := self._given(scope)) is not None:
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _respond(send, 303, b"", {"location": location, "set-cookie": cookie, "cache-control": "no-store"})
        elif self._token is not None and not self._known(headers):
            await _error(send, 401, "this server needs the address with the token that it printed when it started")
        else:
            await self._app(scope, self._limited(receive), send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Return status and reason of a request that is not even looked at."""
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return 421, "this server answers only as " + " or ".join(sorted(self._hosts))
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return 403, "requests of other sites are not answered"
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return 403, "requests of other sites are not answered"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or int(length[:20]) > self._most:
            return 413, f"a request of more than {self._most:,} bytes"
        return None

    def _given(self, scope: Scope) -> str | None:
        """Return where to go on, without the token in the address, if a page is opened with the right one."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        right = scope["method"] == "GET" and given and self._is_token(given[0])
        return "/" + quote(scope["path"].lstrip("/")) if right else None  # "//name" would be another server

    def _known(self, headers: dict[str, str]) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        in_header = scheme.lower() == "bearer" and self._is_token(bearer.strip())
        in_cookie = cookie is not None and self._is_token(cookie.value)
        return in_header or in_cookie

    def _is_token(self, given: str) -> bool:
        """Compare in a time that does not depend on where the texts differ."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), (self._token or "").encode())

    def _limited(self, receive: Receive) -> Receive:
        """Return a ``receive`` that ends a body without end."""
        from fastapi import HTTPException  # here, so that other commands start without it

        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, f"a request of more than {self._most:,} bytes")
            return message

        return limited


def _name(host: str) -> str:
    """Return the name of a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message.get("headers", [])}
            added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return wrapped


async def _error(send: Send, status: int, problem: str) -> None:
    await _respond(send, status, json.dumps({"error": problem}).encode(), {"content-type": "application/json"})


async def _respond(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    listed = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    listed.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
