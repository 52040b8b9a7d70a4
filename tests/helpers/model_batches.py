"""The batch API of the stand-in for a model server: files, and batches that end as a test says."""

import json
import time
from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import TYPE_CHECKING

from tests.helpers.model_faults import Json, Reply, error

if TYPE_CHECKING:
    from tests.helpers.model_server import ModelServer


class Batches:
    """Files and batches.

    ``polls``: how often a batch is asked after before it ends. ``ends``: how the batches end, in the order they were
    made ("completed", "failed", "expired", "cancelled"; afterwards: completed). ``answered``: lines of an expired or
    cancelled batch that were answered. ``repeat``: lines of the output file that come twice. ``lose``: lines of
    the first batch that are in no file. ``lost_reply``: the connection is cut after so many creations, the batch made.
    """

    def __init__(self, server: "ModelServer") -> None:
        self.server = server
        self.polls = 1
        self.ends: list[str] = []
        self.failure = ("invalid_json_line", "line 3 is not JSON")
        self.answered = 1
        self.repeat = self.lose = 0
        self.lost_reply: int | None = None
        self.files: dict[str, bytes] = {}
        self.made: dict[str, Json] = {}

    def serve(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Reply:
        """Return the response to a request that is not a chat request."""
        parts = path.partition("?")[0].removeprefix("/v1/").split("/")
        match method, parts:
            case "POST", ["files"]:
                return _json(self._upload(headers, content))
            case "GET", ["files", name, "content"] if name in self.files:
                return Reply(body=self.files[name], headers={"content-type": "application/jsonl"})
            case "POST", ["batches"]:
                batch = _json(self._create(json.loads(content)))
                lost = self.lost_reply == len(self.made)
                return Reply(body=batch.body, cut=0) if lost else batch
            case "GET", ["batches"]:
                return _json({"object": "list", "data": list(self.made.values())[::-1], "has_more": False})
            case "GET", ["batches", name] if name in self.made:
                return _json(self._poll(self.made[name]))
        return error(404, f"no {method} {path}", "not_found")

    def _upload(self, headers: Mapping[str, str], content: bytes) -> Json:
        message = BytesParser(policy=HTTP).parsebytes(
            f"content-type: {headers['content-type']}\r\n\r\n".encode() + content
        )
        fields = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        assert fields["purpose"].get_payload(decode=True).strip() == b"batch"
        return self._file(fields["file"].get_payload(decode=True))

    def _file(self, content: bytes) -> Json:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 1,
            "filename": f"{name}.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, asked: Json) -> Json:
        name = f"batch-{len(self.made)}"
        self.made[name] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "metadata": asked.get("metadata"),
            "status": "validating",
            "created_at": int(time.time()),
            "polls": self.polls,
            "number": len(self.made),
        }
        return self.made[name]

    def _poll(self, batch: Json) -> Json:
        batch["polls"] -= 1
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "in_progress"
            if batch["polls"] < 0:
                self._end(batch, self.ends[batch["number"]] if batch["number"] < len(self.ends) else "completed")
        return batch

    def _end(self, batch: Json, how: str) -> None:
        batch["status"] = how
        if how == "failed":
            code, message = self.failure
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": message, "line": 3, "param": None}]}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        answered = lines if how == "completed" else lines[: self.answered]
        done, failed = [], []
        for line in answered[self.lose if batch["number"] == 0 else 0 :]:
            (done if (response := self._response(line))["response"]["status_code"] == 200 else failed).append(response)
        code = f"batch_{how}"
        failed += [
            {
                "id": f"r-{line['custom_id']}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": {"code": code, "message": "not run"},
            }
            for line in lines[len(answered) :]
        ]
        done.reverse()  # in any order
        done += done[: self.repeat]
        for name, content in (("output_file_id", done), ("error_file_id", failed)):
            batch[name] = (
                self._file(b"".join(json.dumps(one).encode() + b"\n" for one in content))["id"] if content else None
            )

    def _response(self, line: Json) -> Json:
        reply = self.server.chat(line["body"], {})
        body = json.loads(self.server.complete(reply, line["body"]))
        response = {"status_code": reply.status, "request_id": "r", "body": body}
        return {"id": f"r-{line['custom_id']}", "custom_id": line["custom_id"], "response": response, "error": None}


def _json(value: Json) -> Reply:
    return Reply(body=json.dumps(value).encode())
