"""The forms of a request for an embedding: servers differ in how they take images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from contextcir.errors import InputError

Sent = dict[str, Any]


class RequestForm(ABC):
    """How image and text become the body of a request to ``/v1/embeddings``."""

    @abstractmethod
    def body(self, system: str, parts: Sequence[tuple[str, str]]) -> Sent:
        """Return the fields of a request beside the model.

        ``system``: the instruction, "" for none. ``parts``: kind (``image``, a data URL, or ``text``) and content.
        """

    def check(self, instructions: Sequence[str | None]) -> None:  # noqa: B027  (most have a place for them)
        """Raise InputError if the form has no place for an instruction."""

    def settings(self) -> dict[str, Any]:
        """Return the form as plain JSON."""
        return {"form": type(self).__name__, **vars(self)}


class ChatMessages(RequestForm):
    """vLLM's: ``messages`` as of a chat, a system message with the instruction and a user message.

    Args:
        open_answer: end with an empty message of the assistant that is to be continued, with special tokens added, as
            vLLM's example for Qwen3-VL-Embedding does: the model then pools at the place where its answer would begin.
    """

    def __init__(self, open_answer: bool = False) -> None:
        self.open_answer = open_answer

    def body(self, system: str, parts: Sequence[tuple[str, str]]) -> Sent:
        """Return the messages."""
        content = [
            {"type": "image_url", "image_url": {"url": value}} if kind == "image" else {"type": "text", "text": value}
            for kind, value in parts
        ]
        messages: list[Sent] = [{"role": "user", "content": content}]
        if system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        if not self.open_answer:
            return {"messages": messages}
        messages.append({"role": "assistant", "content": [{"type": "text", "text": ""}]})
        return {"messages": messages, "continue_final_message": True, "add_special_tokens": True}


class InputList(RequestForm):
    """SGLang's: ``input`` is a list of objects with ``text`` and ``image``; the server's chat template does the rest.

    It has no place for an instruction: put it into the template of the text.
    """

    def body(self, system: str, parts: Sequence[tuple[str, str]]) -> Sent:
        """Return a list of one object."""
        return {"input": [dict(parts)]}

    def check(self, instructions: Sequence[str | None]) -> None:
        """Raise InputError for an instruction."""
        if any(instructions):
            problem = "InputList has no place for an instruction: put it into embedder.template, and set it to null"
            raise InputError(problem, setting="embedder.instruction")
