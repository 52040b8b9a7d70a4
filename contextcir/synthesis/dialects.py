"""How a server wants to be asked: servers of the same API differ in what they understand."""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

Schema = dict[str, Any]


class Format(NamedTuple):
    """A way to ask for JSON: the ``response_format``, and whether the schema must be told in the prompt."""

    name: str
    response_format: Callable[[Schema], dict[str, Any] | None]
    told: bool


def _strict(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _schema(schema: Schema) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


FORMATS = (
    Format("strict", _strict, told=False),
    Format("json_schema", _schema, told=False),
    Format("json_object", lambda schema: {"type": "json_object"}, told=True),
    Format("text", lambda schema: None, told=True),
)
NAMES = tuple(one.name for one in FORMATS)
ABOUT_FORMAT = re.compile(r"response_format|json_schema|json_object|structured|guided|grammar|schema", re.IGNORECASE)


class Dialect(NamedTuple):
    """What is sent beside the messages.

    ``format``: one of `NAMES`, from the one that binds the answer most to plain text. ``limit``: name of the limit on
    the answer's tokens. ``temperature``, ``seed``: whether they are sent.
    """

    format: str = "strict"
    limit: str = "max_tokens"
    temperature: bool = True
    seed: bool = True

    def after(self, complaint: str) -> "Dialect | None":
        """Return what to try after a server refused a request with these words; None: it is not about the dialect."""
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return self._replace(limit="max_completion_tokens")
        if self.temperature and "temperature" in complaint:
            return self._replace(temperature=False)
        if ABOUT_FORMAT.search(complaint) and self.format != NAMES[-1]:
            return self._replace(format=NAMES[NAMES.index(self.format) + 1])
        if self.seed and re.search(r"\bseed\b", complaint):
            return self._replace(seed=False)
        return None

    @property
    def form(self) -> Format:
        """The format."""
        return FORMATS[NAMES.index(self.format)]

    def system(self, text: str, schema: Schema) -> str:
        """Return the system prompt, with the schema where the server does not take it otherwise."""
        if not self.form.told:
            return text
        wanted = "Answer with one JSON object and nothing else. It follows this JSON schema:"
        return f"{text}\n\n{wanted}\n{json.dumps(schema)}"

    def parameters(self, schema: Schema, most: int, temperature: float | None, seed: int) -> dict[str, Any]:
        """Return what is sent beside model and messages."""
        values: dict[str, Any] = {self.limit: most}
        if self.temperature and temperature is not None:
            values["temperature"] = temperature
        if self.seed:
            values["seed"] = seed
        if (chosen := self.form.response_format(schema)) is not None:
            values["response_format"] = chosen
        return values
