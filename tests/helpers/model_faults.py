"""Replies of the stand-in for a model server: a script of faults is a list of these."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the server does with one request.

    ``body``: sent as it is, if given; otherwise ``content`` in a completion; otherwise the server's own answer.
    ``wait``: seconds before the first byte. ``cut``: close the connection after so many bytes of the response.
    ``paid``: whether a vendor would charge for it.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content: str | None = None
    refusal: str | None = None
    finish: str = "stop"
    usage: bool = True
    wait: float = 0.0
    cut: int | None = None
    paid: bool = True
    id: str | None = None


def slow(seconds: float) -> Reply:
    """Return the server's own answer, late."""
    return Reply(wait=seconds)


def limited(retry_after: float | str | None = None) -> Reply:
    """Return 429, with a Retry-After if one is given."""
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    return error(429, "Rate limit reached", "rate_limit_exceeded", headers)


def broken(status: int = 500) -> Reply:
    """Return a server's error."""
    return error(status, "The server had an error", "server_error")


def cut(after: int = 40) -> Reply:
    """Close the connection in the middle of an answer that is paid for."""
    return Reply(cut=after)


def hang_up() -> Reply:
    """Close the connection before a byte of the answer."""
    return Reply(cut=0, paid=False)


def says(content: str, finish: str = "stop") -> Reply:
    """Return an answer with this text."""
    return Reply(content=content, finish=finish)


def refuses(text: str = "I can't help with that.") -> Reply:
    """Return a refusal as vendors do."""
    return Reply(refusal=text)


def raw(body: bytes, status: int = 200) -> Reply:
    """Return a response of these bytes."""
    return Reply(status=status, body=body)


def no_format(kind: str = "json_schema") -> Reply:
    """Return what older servers say of a response_format that they do not have."""
    return error(400, f"response_format type {kind!r} is not supported", "invalid_request_error")


def error(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an error in OpenAI's form, which nobody pays for."""
    body = {"error": {"message": message, "type": code, "code": code, "param": None}}
    return Reply(status, headers or {}, json.dumps(body).encode(), paid=False)


def sample(schema: Json, word: str = "red ball") -> Any:
    """Return the smallest value that follows a JSON schema (of the kinds that our prompts use)."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return sample(schema[name][0], word)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: sample(properties[name], word) for name in schema.get("required", properties)}
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}), word) for _ in range(max(1, schema.get("minItems", 1)))]
    least = schema.get("minimum", 1)
    return {"string": word, "integer": least, "number": float(least), "boolean": True, "null": None}[kind]
