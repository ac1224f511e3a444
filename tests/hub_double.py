"""A Hub on loopback that fails as it is told to: what huggingface_hub asks of the real one.

with HubDouble({"a.safetensors": content}) as hub:
    hub.cuts = [100, 200]     # the connection breaks there, one request after the other
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

REPO = "org/weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class HubDouble:
    """What it serves, what goes wrong, and what it was asked.

    files: name -> content, of one repository at `commit` (branch main). errors: HTTP method ->
    (status, headers) instead of an answer, `failing` times. served: name -> what is sent instead of
    the content that HEAD announces. sizes, etags: name -> what HEAD announces instead. cuts: where
    the next downloads break off, in bytes of the whole. hang: the method that is never answered, a
    GET after `hang_at` bytes. ranges: whether parts are sent. refusing: whether a part behind the
    end is refused (416). pace: seconds before every tenth. cdn: redirect to another host name.
    listed: the names in the listing, instead of those of the files. packing: what a GET's
    Content-Encoding says.
    """

    def __init__(self, files: dict[str, bytes] | None = None, repo: str = REPO) -> None:
        self.files = dict(files or {})
        self.repo, self.commit = repo, "c" * 40
        self.errors: dict[str, tuple[int, dict[str, str]]] = {}
        self.failing = 10**6
        self.served: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}
        self.etags: dict[str, str] = {}
        self.cuts: list[int] = []
        self.hang: str | None = None
        self.hang_at = 0  # bytes that are sent before a GET hangs
        self.ranges, self.pace, self.cdn, self.refusing = True, 0.0, False, False
        self.listed: list[str] | None = None
        self.packing = ""
        self.log: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.authorised: dict[str, str | None] = {}  # path -> the header
        self.released = threading.Event()

    def __enter__(self) -> HubDouble:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *ending: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def announce(self, monkeypatch) -> None:
        """HF_ENDPOINT, for a client that is imported already."""
        from huggingface_hub import constants

        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def asked(self, method: str) -> list[str | None]:
        """The ranges of the requests of a method."""
        return [part for kind, _, part in self.log if kind == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[HubDouble]

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._resolve("HEAD")

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            names = self.hub.listed if self.hub.listed is not None else list(self.hub.files)
            siblings = [{"rfilename": name} for name in names]
            told = {"id": self.hub.repo, "sha": self.hub.commit, "siblings": siblings}
            self._begin("GET") and self._json({**told, "private": False, "tags": []})
        else:
            self._resolve("GET")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if not self._begin("POST"):
            return
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": f["path"], **modes} for f in wanted]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.hub.files[value["path"]] = base64.b64decode(value["content"])
            page = f"{self.hub.url}/{self.hub.repo}/commit/{self.hub.commit}"
            self._json({"success": True, "commitOid": self.hub.commit, "commitUrl": page})
        elif self.path.endswith("/create"):
            self._json({"url": f"{self.hub.url}/{self.hub.repo}", "id": "1"})
        else:  # validation of a card
            self._json({"errors": [], "warnings": []})

    # --- answers --------------------------------------------------------------------------------

    def _begin(self, method: str) -> bool:
        """Note the request; False if it was answered by an error, or never will be."""
        hub = self.hub
        self.close_connection = True
        hub.log.append((method, self.path, self.headers.get("Range")))
        hub.authorised[self.path] = self.headers.get("Authorization")
        if hub.hang == method and not hub.hang_at:
            hub.released.wait()
            return False
        if method in hub.errors and hub.failing:
            hub.failing -= 1
            status, headers = hub.errors[method]
            body = b"" if method == "HEAD" else b'{"error": "as told"}'
            length = {"Content-Length": str(len(body)), "Content-Type": "application/json"}
            self._head(status, {**headers, **length})
            self.wfile.write(body)
            return False
        return True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()

    def _json(self, told: dict) -> None:
        content = json.dumps(told).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(content))})
        self.wfile.write(content)

    def _resolve(self, method: str) -> None:
        if not self._begin(method):
            return
        hub = self.hub
        found = re.fullmatch(r"(?:/cdn)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not found or found[1] != hub.repo:
            return self._missing("RepoNotFound", 401)
        if found[2] not in (hub.commit, "main"):
            return self._missing("RevisionNotFound")
        name = found[3]
        if name not in hub.files:
            return self._missing("EntryNotFound")
        content = hub.served.get(name, hub.files[name]) if method == "GET" else hub.files[name]
        length = hub.sizes.get(name, len(content)) if method == "HEAD" else len(content)
        etag = hub.etags.get(name, sha256(hub.files[name]))
        told = {"X-Repo-Commit": hub.commit, "ETag": f'"{etag}"', "Content-Length": str(length)}
        if hub.cdn and not self.path.startswith("/cdn"):
            linked = {"X-Linked-ETag": told.pop("ETag"), "X-Linked-Size": told["Content-Length"]}
            elsewhere = hub.url.replace("127.0.0.1", "localhost") + "/cdn" + self.path
            self._head(302, {**told, **linked, "Location": elsewhere, "Content-Length": "0"})
        elif method == "HEAD":
            self._head(200, told)
        else:
            self._send(content, told)

    def _missing(self, code: str, status: int = 404) -> None:
        self._head(status, {"X-Error-Code": code, "Content-Length": "0"})

    def _send(self, content: bytes, told: dict[str, str]) -> None:
        hub, start, status = self.hub, 0, 200
        if hub.ranges and (part := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, status = int(part[1]), 206
            if hub.refusing and start >= len(content):
                return self._head(416, {"Content-Length": "0"})
            told["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        told["Content-Length"] = str(len(content) - start)
        if self.hub.packing:
            told["Content-Encoding"] = self.hub.packing
        self._head(status, told)
        end = min(hub.cuts.pop(0), len(content)) if hub.cuts else len(content)
        if hub.hang == "GET":
            end = hub.hang_at
        tenth = max(1, (end - start + 9) // 10)
        for at in range(start, end, tenth):
            time.sleep(hub.pace)
            self.wfile.write(content[at : min(at + tenth, end)])
            self.wfile.flush()
        if hub.hang == "GET":
            hub.released.wait()
