"""Structured answers: how a server is asked for JSON, and how the one object in its answer is found and checked.

An answer is a text from outside: its size, depth, values and schema are checked before anything uses it. Servers of
the same API differ in the parameters that they understand; a `Dialect` is one set of them.
"""

import json
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

LARGEST = 200_000  # characters of an answer
DEEPEST = 16  # nested objects and lists
STARTS = 8  # positions at which an object is looked for

Schema = dict[str, Any]


class Format(NamedTuple):
    """A way to ask for JSON: the ``response_format``, and whether the prompt has to show the schema."""

    name: str
    response_format: Callable[[Schema], dict[str, Any] | None]
    in_prompt: bool


def _strict(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _schema(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


FORMATS = (  # from the one that constrains the answer most to plain text
    Format("strict", _strict, in_prompt=False),
    Format("json_schema", _schema, in_prompt=False),
    Format("json_object", lambda schema: {"type": "json_object"}, in_prompt=True),
    Format("text", lambda schema: None, in_prompt=True),
)
NAMES = tuple(one.name for one in FORMATS)
ABOUT_FORMAT = re.compile(r"response_format|json_schema|json_object|structured|guided|grammar|schema", re.IGNORECASE)


class Dialect(NamedTuple):
    """The parameters of a request beside its messages.

    ``format``: one of `NAMES`. ``limit``: name of the limit on the answer's tokens. ``temperature``, ``seed``: whether
    they are sent.
    """

    format: str = "strict"
    limit: str = "max_tokens"
    temperature: bool = True
    seed: bool = True

    def after(self, complaint: str) -> "Dialect | None":
        """Return the dialect to try next after a server refused a request; None if the refusal is about other things.

        ``complaint``: the server's error message.
        """
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return self._replace(limit="max_completion_tokens")
        if self.temperature and "temperature" in complaint:
            return self._replace(temperature=False)
        if ABOUT_FORMAT.search(complaint) and self.format != NAMES[-1]:
            return self._replace(format=NAMES[NAMES.index(self.format) + 1])
        if self.seed and re.search(r"\bseed\b", complaint):
            return self._replace(seed=False)
        return None

    def system(self, text: str, schema: Schema) -> str:
        """Return the system prompt, with the schema where the server does not take it as a parameter."""
        if not self._form.in_prompt:
            return text
        request = "Answer with one JSON object and nothing else. It follows this JSON schema:"
        return f"{text}\n\n{request}\n{json.dumps(schema)}"

    def parameters(self, schema: Schema, most: int, temperature: float | None, seed: int) -> dict[str, Any]:
        """Return the fields of a request beside model and messages; ``most``: tokens of the answer."""
        values: dict[str, Any] = {self.limit: most}
        if self.temperature and temperature is not None:
            values["temperature"] = temperature
        if self.seed:
            values["seed"] = seed
        if (chosen := self._form.response_format(schema)) is not None:
            values["response_format"] = chosen
        return values

    @property
    def _form(self) -> Format:
        return FORMATS[NAMES.index(self.format)]


class Flaw(Exception):
    """What is wrong with an answer: ``reason`` in a word or two, ``detail`` for the model and the record."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def parse(text: str, schema: Schema) -> dict[str, Any]:
    """Return the object of an answer, checked against a JSON schema.

    The answer may be the object alone, or contain it once among other words: thoughts in <think>, a fence, a sentence.

    Raises:
        Flaw: "too large", "not JSON", "several objects", "unsafe text", "too deep" or "not the schema".
    """
    if len(text) > LARGEST:
        raise Flaw("too large", f"{len(text):,} characters")
    value = find_object(text)
    _check_values(value)
    _check_schema(value, schema)
    return value


def find_object(text: str) -> dict[str, Any]:
    """Return the only JSON object of a text; raises Flaw."""
    try:
        whole = _load(text.strip())
    except ValueError:
        objects = _objects(text.rpartition("</think>")[2])
    except RecursionError:
        raise Flaw("too deep") from None
    else:
        objects = [whole] if isinstance(whole, dict) else []
    if not objects:
        raise Flaw("not JSON", "there is no JSON object in it")
    if any(other != objects[0] for other in objects[1:]):
        raise Flaw("several objects", f"{len(objects)} JSON objects instead of one")
    return objects[0]


def _objects(text: str) -> list[dict[str, Any]]:
    objects, position = [], 0
    for _ in range(STARTS):
        position = text.find("{", position)
        if position < 0:
            break
        try:
            value, position = _DECODER.raw_decode(text, position)
        except ValueError:
            position += 1
        except RecursionError:
            raise Flaw("too deep") from None
        else:
            objects.append(value)
    return objects


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_load = _DECODER.decode
_UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def _check_values(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one)
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, str) and _UNSAFE.search(one):
                raise Flaw("unsafe text", "control characters, or halves of characters, in a text")
            elif isinstance(one, float) and not math.isfinite(one):
                raise Flaw("not JSON", "a number that is too large")
        level = below
        if not level:
            return
    raise Flaw("too deep", f"more than {DEEPEST} levels")


def _check_schema(value: dict[str, Any], schema: Schema) -> None:
    error = next(_validator(json.dumps(schema)).iter_errors(value), None)
    if error is not None:
        place = "/".join(str(step)[:40] for step in error.absolute_path) or "the object"
        raise Flaw("not the schema", f"{place}: {error.message[:160]}")


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema.validators import validator_for  # of the extra `synthesis`

    loaded = json.loads(schema)
    kind = validator_for(loaded)
    kind.check_schema(loaded)
    return kind(loaded)
