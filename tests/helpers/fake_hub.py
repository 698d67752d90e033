"""A model hub on this machine: the endpoints that huggingface_hub's client uses to push a folder."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OWNED = ("me", "my-lab")
TOKEN = "hf_right"


@dataclass
class FakeHub:
    """What the hub holds.

    Attributes:
        files: (repository, branch) -> path -> content.
        private: repository -> whether it is private; a repository of an owner not in `OWNED` is read-only.
        requests: method and path of every request.
    """

    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def create(self, name: str, *, private: bool = False) -> None:
        self.private[name] = private
        self.files[name, "main"] = {}

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        """(status, JSON or None) of a request."""
        self.requests.append(f"{method} {path}")
        if method == "PUT":
            self.objects[path.rsplit("/", 1)[-1]] = body
            return 200, None
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "orgs": [{"name": "my-lab"}]}
        return self._create(json.loads(body)) if path == "/api/repos/create" else self._of_model(path, body)

    def _of_model(self, path: str, body: bytes) -> tuple[int, Any]:
        name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2]).removesuffix(".git")
        action = path.split(name, 1)[1].removeprefix(".git").strip("/").split("/")
        if name not in self.private:
            return 404, {"error": "Repository not found"}
        if action == [""]:
            return 200, {"id": name, "private": self.private[name], "sha": "0" * 40}
        owned = name.split("/", 1)[0] in OWNED
        return self._write(name, action, body) if owned else (403, {"error": "Forbidden"})

    def _create(self, request: dict[str, Any]) -> tuple[int, Any]:
        name = f"{request['organization']}/{request['name']}"
        if request["organization"] not in OWNED:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if name in self.private:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.create(name, private=request.get("visibility") == "private" or bool(request.get("private")))
        return 200, {"url": f"{self.address}/{name}"}

    def _write(self, name: str, action: list[str], body: bytes) -> tuple[int, Any]:
        if action == ["auth-check", "write"]:
            return 200, {}
        if action[0] == "branch":
            self.files.setdefault((name, action[1]), dict(self.files[name, "main"]))
            return 200, {}
        if action[0] == "preupload":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if action[-1] == "batch":
            return 200, {"transfer": "basic", "objects": [self._slot(o) for o in json.loads(body)["objects"]]}
        if action[0] == "commit":
            branch = self.files[name, action[1]]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    branch[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    branch[value["path"]] = self.objects[value["oid"]]
            return 200, {"commitUrl": f"{self.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return 404, {"error": "/".join(action)}

    def _slot(self, request: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.address}/storage/{request['oid']}"
        return {**request, "actions": {"upload": {"href": href}}}


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    """Serve an empty hub during the block."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.split("?")[0]
            status, content = hub.answer(self.command, path, body, self.headers.get("Authorization"))
            data = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
