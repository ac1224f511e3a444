"""A small study made without a network, its server as a process, and a subject who speaks HTTP."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from upscale.humaneval.build import Entry, StudySettings, build
from upscale.image.picture import Picture

ROOT = Path(__file__).parents[1]
SECONDS = 0.05


def make_study(
    folder: Path,
    *,
    pictures: int = 8,
    methods: tuple[str, ...] = ("one", "two"),
    size: tuple[int, int] = (24, 20),
    **settings,
) -> Path:
    """A study of noise: height 24, width 20, every image of its own."""
    rng = np.random.default_rng(5)

    def noise() -> np.ndarray:
        return rng.random((*size, 3), dtype=np.float32)

    entries = (
        Entry(f"picture{i}", Picture(noise()), noise(), {name: noise() for name in methods})
        for i in range(pictures)
    )
    chosen = {"subjects": 4, "images": 4, "checks": 1, "practice": 1, "seconds": SECONDS}
    build(entries, pictures, methods, StudySettings(**{**chosen, **settings}), folder)
    return folder


@contextmanager
def serving(study: Path, *options: str):
    """`diffsr humaneval serve` as a process; yields (link, process)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSR_")}
    log = study.parent / "serve.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "upscale", "humaneval", "serve", str(study), "--no-browser",
             "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=errors, env={**env, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            link = process.stdout.readline().decode().strip()
            assert link.startswith("http://"), log.read_text()
            yield link, process
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


class Client:
    """A browser without a page: keeps cookies, posts JSON, one connection for each request."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        self.host, self.port = parts.hostname, parts.port
        self.cookies: dict[str, str] = {}
        self.state: dict = {}

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies:
            told.setdefault("Cookie", "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        try:
            connection.request(method, path, body, told)
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        for value in response.headers.get_all("Set-Cookie") or []:
            name, _, rest = value.partition("=")
            self.cookies[name] = rest.partition(";")[0]
        return response.status, response.headers, data

    def post(self, name: str, **body):
        """(status, what was told)"""
        data = json.dumps({"tab": self.state.get("tab"), **body}).encode()
        status, _, told = self.request(
            "POST", f"/api/{name}", data, Content_Type="application/json"
        )
        return status, json.loads(told)

    def go(self, name: str, **body) -> dict:
        """A post that must be accepted; states are kept."""
        status, told = self.post(name, **body)
        assert status == 200, (name, status, told)
        if "phase" in told:
            self.state = told
        return told

    def see(self) -> None:
        """Look at the trial that is due."""
        trial = self.state["trial"]["id"]
        self.go("begin", trial=trial)
        time.sleep(SECONDS)
        self.go("shown", trial=trial, shown_ms=SECONDS * 1000, frame_ms=16.7)

    def answer(self, side: str, rt_ms: float = 500.0) -> dict:
        return self.go("answer", trial=self.state["trial"]["id"], side=side, rt_ms=rt_ms)
