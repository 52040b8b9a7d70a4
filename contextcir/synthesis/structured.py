"""The one JSON object in a model's answer, checked: a text from outside, which is data and nothing else."""

import json
import math
import re
from functools import lru_cache
from typing import Any

LARGEST = 200_000  # characters of an answer
DEEPEST = 16  # objects and lists within each other
STARTS = 8  # places where an object is looked for


class Flaw(Exception):
    """An answer is of no use: ``reason`` in a word or two, ``detail`` for the model and the record."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def parse(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the object of an answer, which follows a JSON schema.

    The answer may be the object, or hold it once among other words: thoughts in <think>, a fence, a sentence.

    Raises:
        Flaw: "too large", "not JSON", "several objects", "unsafe text", "too deep" or "not the schema".
    """
    if len(text) > LARGEST:
        raise Flaw("too large", f"{len(text):,} characters")
    found = find_object(text)
    _check_values(found)
    _check_schema(found, schema)
    return found


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
    objects, place = [], 0
    for _ in range(STARTS):
        place = text.find("{", place)
        if place < 0:
            break
        try:
            found, place = _DECODER.raw_decode(text, place)
        except ValueError:
            place += 1
        except RecursionError:
            raise Flaw("too deep") from None
        else:
            objects.append(found)
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


def _check_schema(value: dict[str, Any], schema: dict[str, Any]) -> None:
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
