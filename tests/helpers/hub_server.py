"""A stand-in for the Hugging Face Hub: what its client asks over HTTP to make a repository, send files and read them.

    with HubServer(token) as server:
        ... server.url ...        # HF_ENDPOINT
        server.repositories       # OWNER/NAME -> path -> content
        server.refuse = 403       # answer all that writes with this status

Files of the suffix ``.safetensors`` go the way of large ones (Git LFS), all others with the commit.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

COMMIT = "c" * 40


class HubServer:
    """The server, in a thread of its own; a context manager."""

    def __init__(self, token: str) -> None:
        self.token, self.refuse = token, 0
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}  # of LFS, by SHA-256
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: object) -> None:
                pass

            def body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def answer(self, value: Any, status: int = 200, **headers: str) -> None:
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), text)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def allowed(self) -> bool:
                given = self.headers.get("Authorization", "")
                if hub.refuse or given != f"Bearer {hub.token}":
                    # As a careless proxy would, with what was sent.
                    self.answer({"error": f"no access with {given}"}, hub.refuse or 401)
                    return False
                return True

            def do_POST(self) -> None:
                hub.asked.append(f"POST {self.path}")
                body = self.body()
                if not self.allowed():
                    return
                if self.path == "/api/repos/create":
                    made = json.loads(body)
                    name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
                    hub.repositories.setdefault(name, {})
                    self.answer({"url": f"{hub.url}/{name}"})
                elif self.path == "/api/validate-yaml":  # of a card
                    self.answer({"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    files = json.loads(body)["files"]
                    self.answer({"files": [
                        {"path": file["path"], "shouldIgnore": False,
                         "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                        for file in files
                    ]})  # fmt: skip
                elif self.path.endswith("/info/lfs/objects/batch"):
                    objects = json.loads(body)["objects"]
                    self.answer({"transfer": "basic", "objects": [
                        {**each, "actions": {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}}} for each in objects
                    ]})  # fmt: skip
                elif "/commit/" in self.path:
                    name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                    for line in body.splitlines():
                        part = json.loads(line)
                        if part["key"] == "file":
                            hub.repositories[name][part["value"]["path"]] = base64.b64decode(part["value"]["content"])
                        elif part["key"] == "lfsFile":
                            hub.repositories[name][part["value"]["path"]] = hub.objects[part["value"]["oid"]]
                    self.answer({"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})
                else:
                    self.answer({"error": "unknown"}, 404)

            def do_PUT(self) -> None:
                hub.asked.append(f"PUT {self.path}")
                content = self.body()
                name = self.path.removeprefix("/lfs/")
                assert hashlib.sha256(content).hexdigest() == name
                hub.objects[name] = content
                self.answer(b"")

            def do_GET(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                name, resolved, path = self.path[1:].partition("/resolve/main/")
                if not resolved:  # a later request names the commit
                    name, resolved, path = self.path[1:].partition(f"/resolve/{COMMIT}/")
                if self.path.startswith("/api/models/"):
                    known = self.path.removeprefix("/api/models/").partition("/revision/")[0]
                    found = known in hub.repositories
                    self.answer({"id": known, "sha": COMMIT, "siblings": []} if found else {}, 200 if found else 404)
                elif resolved and path in hub.repositories.get(name, {}):
                    content = hub.repositories[name][path]
                    tag = f'"{hashlib.sha256(content).hexdigest()}"'
                    self.answer(content, ETag=tag, X_Repo_Commit=COMMIT)
                else:
                    self.answer({"error": "none"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)

            do_HEAD = do_GET

        return Handler
