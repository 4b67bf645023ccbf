"""An OpenAI-compatible endpoint small enough for tests: says what it is told to, keeps what arrives, can fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JudgeServer(ThreadingHTTPServer):
    """`verdict` gives the reply to a user's message; `statuses` are those of the next requests, before any reply."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), JudgeHandler)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []
        self.verdict: Callable[[str], str] = lambda text: "YES"
        self.body: bytes | None = None
        self.delay = 0.0

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class JudgeHandler(BaseHTTPRequestHandler):
    server: JudgeServer

    def log_message(self, *_: Any) -> None:
        """Tests stay quiet."""

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(given)
        self.server.keys.append(self.headers.get("Authorization"))
        time.sleep(self.server.delay)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        said = self.server.verdict(given["messages"][-1]["content"])
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
        body = self.server.body if self.server.body is not None else body
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    """It answers until the end of the block."""
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
