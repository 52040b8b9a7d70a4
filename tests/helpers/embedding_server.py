"""A stand-in for a server of embeddings: what it answers depends on everything that it was sent."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from contextcir.files import stable_hash
from tests.helpers.model_faults import Json, Reply
from tests.helpers.model_server import Asked, ModelServer

WIDTH = 8


def vector(content: Any) -> list[float]:
    """Return the embedding of a request's messages, or of its input."""
    seed = stable_hash(json.dumps(content, sort_keys=True))
    return np.random.default_rng(seed).standard_normal(WIDTH).round(6).tolist()


class EmbeddingServer(ModelServer):
    """Answers ``/v1/embeddings``, in either form of requests."""

    path = "/v1/embeddings"

    def chat(self, body: Json, headers: Mapping[str, str]) -> Reply:
        """Note a request, and return what the script says."""
        number = len(self.asked)
        self.asked.append(Asked(body, headers))
        given = self.script(number, body) if callable(self.script) else None
        if given is None and not callable(self.script) and number < len(self.script):
            given = self.script[number]
        return given or Reply()

    def complete(self, reply: Reply, body: Json) -> bytes:
        """Return the response."""
        if reply.body is not None:
            return reply.body
        content = body.get("messages", body.get("input"))
        usage = {"prompt_tokens": 10, "total_tokens": 10}
        data = [{"object": "embedding", "index": 0, "embedding": vector(content)}]
        return json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode()


class YesNoServer(ModelServer):
    """Answers a chat with the log-probabilities that a function of the body gives: by token."""

    def complete(self, reply: Reply, body: Json) -> bytes:
        """Return the response."""
        if reply.body is not None:
            return reply.body
        said: Any = self.answer(body)
        listed = [{"token": token, "logprob": value, "bytes": None} for token, value in said.items()]
        message = {"role": "assistant", "content": "yes"}
        first = {**(listed[0] if listed else {}), "top_logprobs": listed}
        choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": [first]}}
        usage = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}
        return json.dumps({"id": "1", "choices": [choice], "model": body["model"], "usage": usage}).encode()
