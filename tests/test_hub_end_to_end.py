"""Pull from a self-hosted Hub (olah) by the installed commands, then enlarge with the network cut.

olah serves a git repository on loopback; the client is the real one, in processes of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("olah") is None or shutil.which("git") is None,
    reason="needs olah (pip install 'diffsr[dev]') and git",
)
PATIENCE = 120  # seconds; an idle machine starts the server in two


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=tester", "-c", "user.email=tester@localhost"]
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Server:
    """olah in offline mode over a folder of git repositories."""

    def __init__(self, folder: Path, weights: bytes) -> None:
        self.repo = folder / "mirrors" / "models" / "org" / "tiny"
        self.repo.mkdir(parents=True)
        git(self.repo, "init", "-q", "-b", "main")
        (self.repo / "tiny.safetensors").write_bytes(weights)
        (self.repo / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# tiny\n")
        git(self.repo, "add", ".")
        git(self.repo, "commit", "-q", "-m", "weights")
        self.commit = git(self.repo, "rev-parse", "HEAD")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        (folder / "olah.toml").write_text(
            f'[basic]\nhost = "127.0.0.1"\nport = {port}\n'
            f"repos-path = {json.dumps(str(folder / 'repos'))}\n"
            f"mirrors-path = [{json.dumps(str(folder / 'mirrors'))}]\n"
            "[accessibility]\noffline = true\n"
        )
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "olah.server", "--config", "olah.toml"],
                cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip

    def wait(self) -> None:
        place = f"{self.url}/org/tiny/resolve/{self.commit}/README.md"
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit and self.process.poll() is None:
            try:
                with urllib.request.urlopen(place, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.stop()
        pytest.fail(f"olah does not answer: {self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server(tmp_path, tiny_weights) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server", Path(tiny_weights).read_bytes())
    server.wait()
    yield server
    server.stop()


@pytest.mark.slow
def test_pull_then_upscale_with_the_network_cut(server: Server, tmp_path, tiny_weights) -> None:
    home = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {**home, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")}

    def diffsr(*args: str, code: int = 0) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "upscale", *args]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done

    pulled = json.loads(diffsr("weights", "pull", "hf:org/tiny", "--json").stdout)
    assert pulled["name"] == f"hf:org/tiny@{server.commit}/tiny.safetensors"
    assert Path(pulled["path"]).read_bytes() == Path(tiny_weights).read_bytes()
    assert pulled["path"].startswith(str(tmp_path / "hf" / "hub"))
    diffsr("weights", "pull", "hf:org/tiny/tiny.safetensors", "-q")  # of the branch
    missing = diffsr("weights", "pull", "hf:org/tiny/none.safetensors", code=5)
    assert "Error: org/tiny" in missing.stderr and "Traceback" not in missing.stderr

    server.stop()
    gone = diffsr("weights", "pull", "hf:org/tiny/tiny.safetensors", code=5)
    assert "could not be fetched from " + server.url in gone.stderr
    pixels = np.random.default_rng(0).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    spec = "hf:org/tiny/tiny.safetensors"
    record = json.loads(
        diffsr("upscale", "in.png", "--scale", "3", "--weights", spec, "--json").stdout
    )
    assert record["status"] == "ok" and record["weights"] == pulled["name"]
    assert record["weights_sha256"] == pulled["sha256"]
    with Image.open(tmp_path / "in_x3.png") as made:
        assert made.size == (27, 21)
