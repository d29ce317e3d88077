"""A Hugging Face hub on this machine, as far as its client asks when a model is downloaded."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

GATED = "Access to model acme/gated is restricted and you are not in the authorized list. Visit the page to ask."


def commit_hash(number: int) -> str:
    return f"{number:040x}"


@dataclass
class Hub:
    """Models by name: each a list of commits, which are folders; branches and tags that name some of them. `refused`
    tells for others the status, error code and message that each request gets."""

    models: dict[str, list[Path]] = field(default_factory=dict)
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)  # what they are may be seen, their files may not be had
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, model: str, revision: str) -> int | None:
        """The number of a model's commit."""
        known = self.names.get(model, {})
        numbers = {commit_hash(number): number for number in range(len(self.models[model]))}
        return known.get(revision, numbers.get(revision))


@contextmanager
def hub_of(hub: Hub) -> Iterator[Hub]:
    """The hub, answering at its `url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(head=True)

        def do_GET(self) -> None:
            self._answer(head=False)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, head: bool) -> None:
            hub.asked.append(self.path)
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            of_files = parts[0] != "api"
            if len(parts) < (3 if of_files else 5):  # telemetry
                return self._send(404, "EntryNotFound", "Not found")
            owner, name, what, *rest = parts if of_files else parts[2:]
            model = f"{owner}/{name}"
            if model in hub.refused:
                return self._send(*hub.refused[model])
            if model not in hub.models:
                return self._send(401, "RepoNotFound", "Invalid username or password.")
            if of_files and model in hub.gated:
                return self._send(403, "GatedRepo", GATED)
            if (number := hub.commit(model, rest[0])) is None:
                return self._send(404, "RevisionNotFound", f"Invalid rev id: {rest[0]}")
            folder, sha = hub.models[model][number], commit_hash(number)
            files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            if what == "revision":
                siblings = [{"rfilename": file} for file in files]
                return self._json({"id": model, "modelId": model, "sha": sha, "siblings": siblings, "tags": []})
            if what == "tree":
                listed = [
                    {"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
                    for file, data in sorted(files.items())
                ]
                return self._json(listed)
            data = files.get("/".join(rest[1:]))
            if data is None:
                return self._send(404, "EntryNotFound", "Entry not found")
            self.send_response(200)
            self.send_header("ETag", f'"{_etag(data)}"')
            self.send_header("X-Repo-Commit", sha)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not head:
                self.wfile.write(data)
            return None

        def _json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _send(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
