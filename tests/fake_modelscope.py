"""A ModelScope on this machine, with one model and bad habits to choose from."""

from __future__ import annotations

import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

ID = "damo/cv_passvitb"
FILES = {
    "configuration.json": b'{"model": {}}',
    "pytorch_model.pt": b"weights" * 1000,
    "README.md": b"# card",
    "model.py": b"import os",
    "logs/events.bin": b"x",
}


class FakeModelScope:
    """A ModelScope with one model; attributes make it misbehave.

    Attributes:
        files: Path -> content served.
        listed: Path -> changes to the file's entry in the listing.
        extra: Further entries of the listing.
        requests: Paths with queries, in order.
    """

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.listed: dict[str, dict[str, Any]] = {}
        self.extra: list[Any] = []
        self.listing: bytes | None = None
        self.redirect: str | None = None
        self.cut = False
        self.status = 200
        self.delay = 0.0
        self.requests: list[str] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def entries(self) -> list[Any]:
        found: list[Any] = [{"Path": "logs", "Type": "tree", "Size": 0}]
        for path, content in self.files.items():
            digest = hashlib.sha256(content).hexdigest()
            entry = {"Path": path, "Type": "blob", "Size": len(content), "Sha256": digest}
            found.append(entry | self.listed.get(path, {}))
        return found + self.extra

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        root = f"/api/v1/models/{ID}/repo"
        body, status = b"", self.status
        if parts.path == f"{root}/files" and query["Revision"] in ("master", "v1.0"):
            body = self.listing or json.dumps({"Data": {"Files": self.entries()}}).encode()
        elif parts.path == root and self.redirect:
            status = 302
        elif parts.path == root:
            time.sleep(self.delay)
            body = self.files[query["FilePath"]]
        else:
            status = 404
        request.send_response(status)
        if status == 302 and self.redirect:
            request.send_header("Location", self.redirect)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2] if self.cut and parts.path == root else body)
