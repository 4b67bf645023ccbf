"""A W&B server small enough for tests: answers what `wandb` asks on the way, keeps what arrives, and can hang."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "deadbeef"  # a key as W&B takes it


class Server(ThreadingHTTPServer):
    """`rows` are those of a run's history, `files` what was uploaded by name, `runs` what was said of the run."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.runs: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.hangs = False
        self.last_step: int | None = None  # of a run that is there already
        self.sweep: dict[str, Any] = {}
        self.commands: list[dict[str, Any]] = []  # for an agent of the sweep

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are what some tests are about."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        for word, reply in ANSWERS.items():
            if word in query:
                return reply(self, given)
        return {}


def viewer(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}


def resume(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
    bucket = None
    if server.last_step is not None:
        tail = json.dumps([json.dumps({"_step": server.last_step, "_runtime": 1})])
        bucket = {"id": "b", "name": given["name"], "displayName": "earlier", "logLineCount": 0, "eventsLineCount": 0}
        bucket |= {"historyLineCount": server.last_step, "historyTail": tail, "eventsTail": "[]", "config": "{}"}
        bucket |= {"summaryMetrics": "{}", "tags": [], "notes": None, "wandbConfig": json.dumps({"t": 1})}
    return {"model": project | {"bucket": bucket}}


def upsert(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    server.runs.append(given)
    project = {"id": "p", "name": given["project"], "entity": {"id": "e", "name": "me"}}
    bucket = {"id": "b", "name": given["name"], "displayName": given["displayName"], "description": None}
    bucket |= {"config": "{}", "sweepName": given.get("sweep"), "project": project, "historyLineCount": 0}
    return {"upsertBucket": {"bucket": bucket, "inserted": server.last_step is None}}


def uploads(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    files = [{"name": name, "uploadUrl": f"{server.url}/up/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}


def artifact(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s"}}}}


def artifact_type(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    known = {
        "__typename": "ArtifactType",
        "id": "t",
        "name": given.get("name"),
        "description": None,
        "createdAt": "now",
    }
    return {"project": {"artifactType": known, "artifact": None}}


def sweep(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    state = {"id": "s", "name": given["sweep"], "state": "RUNNING", "config": json.dumps(server.sweep)}
    return {"project": {"sweep": state | {"method": "random", "runs": {"edges": []}}}}


def heartbeat(server: Server, given: dict[str, Any]) -> dict[str, Any]:
    commands, server.commands = server.commands, []
    return {"agentHeartbeat": {"agent": {"id": "a"}, "commands": json.dumps(commands)}}


ANSWERS: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any]]] = {
    "RunResumeStatus": resume,
    "UpsertBucket": upsert,
    "CreateRunFiles": uploads,
    "CreateArtifact ": artifact,
    "query ArtifactType": artifact_type,
    "createAgent": lambda server, given: {"createAgent": {"agent": {"id": "a"}}},
    "agentHeartbeat": heartbeat,
    "sweep(": sweep,
    "viewer": viewer,
    "serverInfo": lambda server, given: {"serverInfo": {"features": []}},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Silent."""

    def handle_body(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.hangs:
            time.sleep(600)
        reply: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            self.server.asked.append(asked["query"])
            reply = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            lines = json.loads(body).get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
            self.server.rows += map(json.loads, lines)
        elif self.path.startswith("/up/"):
            self.server.files[self.path.removeprefix("/up/")] = body
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = handle_body


@contextmanager
def running_server() -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
