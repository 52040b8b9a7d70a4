"""A program that serves a model at once, in place of vLLM: `python served.py PORT LOG`; LOG gets a line per request."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, LOG = int(sys.argv[1]), sys.argv[2]
SLOW = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0  # seconds until it listens, as a model that loads


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with open(LOG, "a") as file:
            file.write(body["model"] + "\n")
        schema = body["response_format"]["json_schema"]["schema"]
        texts = schema["properties"]["objects"]["items"]["type"] == "string"
        content = {"objects": ["red ball"] if texts else [{"object": "ball", "descriptors": ["red"]}]}
        message = {"role": "assistant", "content": json.dumps(content)}
        self.answer({"model": body["model"], "choices": [{"message": message, "finish_reason": "stop"}]})

    def answer(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


time.sleep(SLOW)
print(f"serves on {PORT}", file=sys.stderr, flush=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
