"""A stand-in for `vllm run-batch` and the batch APIs of vendors: request files in, answer files out."""

import json
from collections.abc import Iterable
from pathlib import Path

from tests.helpers.model_faults import Json
from tests.helpers.model_server import ModelServer


def request_files(folder: Path) -> list[Path]:
    """Return the request files of a folder."""
    return sorted(folder.glob("requests-*.jsonl"))


def answer_lines(server: ModelServer, requests: Path) -> list[Json]:
    """Return the answers to a request file in the format of OpenAI, in order."""
    return [_answer(server, json.loads(line)) for line in requests.read_bytes().splitlines()]


def expired(line: Json) -> Json:
    """Return what a vendor writes about a request that was not run in time."""
    error = {"code": "batch_expired", "message": "not run"}
    return {"id": "r", "custom_id": line["custom_id"], "response": None, "error": error}


def write_lines(path: Path, lines: Iterable[Json]) -> None:
    """Write an answer file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def run_batches(server: ModelServer, folder: Path) -> int:
    """Answer all request files of a folder that have no answer file yet; return how many were run."""
    count = 0
    for requests in request_files(folder):
        answers = folder / requests.name.replace("requests-", "answers-")
        if not answers.exists():
            write_lines(answers, reversed(answer_lines(server, requests)))  # in any order
            count += 1
    return count


def _answer(server: ModelServer, line: Json) -> Json:
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    reply = server.chat(line["body"], {})
    response = {
        "status_code": reply.status,
        "request_id": "r",
        "body": json.loads(server.complete(reply, line["body"])),
    }
    return {"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}
