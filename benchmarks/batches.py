"""Batches at full size, measured: `python benchmarks/batches.py crash|shards|ray|speed [FOLDER]`.

What it prints is in docs/batches.md; it takes minutes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

DIFFSR = [sys.executable, "-m", "upscale"]


def pictures(folder: Path, count: int, broken: int = 0, side: int = 12) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:05}.png"
        if number % (count // broken) == 7 if broken else False:
            path.write_bytes(b"<html>404</html>")
        else:
            pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)


def memory(process: subprocess.Popen) -> int:
    """Peak resident MiB so far."""
    try:
        text = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")]
    return int(found[0]) // 1024 if found else 0


def begin(where: Path, *args: str) -> subprocess.Popen:
    log = open(where / "log", "ab")  # noqa: SIM115 (the process has it)
    return subprocess.Popen([*DIFFSR, *args], cwd=where, stdout=log, stderr=log)


def made(where: Path, folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (where / folder).glob("*.png")}


def lines(path: Path) -> list[dict]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            print("a torn line:", line[:40])
    return found


def crash(where: Path) -> None:
    """2,000 pictures, 20 of them broken: once through, and once with five kills."""
    pictures(where / "in", 2000, 20)
    args = ("in", "--method", "bicubic", "-q", "-o")
    process = begin(where, *args, "once", "--resume", "once.jsonl")
    early = peak = 0
    while process.poll() is None:
        peak = memory(process) or peak
        if not early and (where / "once").exists() and len(os.listdir(where / "once")) >= 100:
            early = peak
        time.sleep(0.05)
    states = Counter(line["status"] for line in lines(where / "once.jsonl"))
    print(f"once: exit {process.returncode}, {len(made(where, 'once'))} outputs, ledger {states}, "
          f"peak {early} MiB after 100, {peak} MiB at the end")  # fmt: skip
    rng = random.Random(5)
    for _ in range(5):
        before = len(os.listdir(where / "killed")) if (where / "killed").exists() else 0
        wanted = before + rng.randint(20, 500)
        process = begin(where, *args, "killed", "--resume", "killed.jsonl")
        while process.poll() is None:
            if (where / "killed").exists() and len(os.listdir(where / "killed")) >= wanted:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        print("killed with", len(os.listdir(where / "killed")), "files there")
    code = begin(where, *args, "killed", "--resume", "killed.jsonl").wait()
    ok = Counter(
        out["path"] for line in lines(where / "killed.jsonl") for out in line.get("outputs", [])
    )
    same = made(where, "killed") == made(where, "once")
    print(f"killed: exit {code}, {len(ok)} outputs in the ledger, each {set(ok.values())} times, "
          f"the files {'equal' if same else 'DIFFER FROM'} those made at once")  # fmt: skip


def shards(where: Path) -> None:
    """Three parts against the whole, default weights."""
    pictures(where / "in", 60)
    begin(where, "in", "-q", "-o", "whole").wait()
    parts = []
    for index in range(3):
        begin(where, "in", "-q", "-o", "parts", "--shard", f"{index}/3").wait()
        parts.append(len(made(where, "parts")))
    print("files after each shard:", parts, "equal:", made(where, "parts") == made(where, "whole"))


def ray(where: Path) -> None:
    """Two local workers, one killed in the middle, against one process; default weights."""
    pictures(where / "in", 100, 4)
    begin(where, "in", "-q", "-o", "here").wait()
    process = begin(where, "in", "-q", "-o", "ray", "--engine", "ray", "--workers", "2",
                    "--resume", "ray.jsonl")  # fmt: skip
    killed = 0
    while process.poll() is None:
        if not killed and (where / "ray").exists() and len(os.listdir(where / "ray")) >= 20:
            killed = _kill_an_actor()
        time.sleep(0.05)
    states = Counter(line["status"] for line in lines(where / "ray.jsonl"))
    print(f"ray: exit {process.returncode}, killed actor {killed}, ledger {states}, "
          f"equal: {made(where, 'ray') == made(where, 'here')}")  # fmt: skip


def _kill_an_actor() -> int:
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if status.read_bytes().startswith(b"ray::MapWorker"):
                os.kill(int(status.parent.name), signal.SIGKILL)
                return int(status.parent.name)
        except OSError:
            continue
    return 0


def speed(where: Path, count: int = 100, single: int = 5) -> None:
    """Seconds for `count` pictures of 32x32: a batch, separate runs (some of them, times as many),
    a plain loop over the API."""
    pictures(where / "in", count, side=32)
    files = sorted(str(path) for path in (where / "in").iterdir())
    loop = (
        "import sys, upscale\nup = upscale.Upscaler()\nfor i, name in enumerate(sys.argv[1:]):\n"
        "    up(name, scale=4).save(f'loop{i}.png')"
    )

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def timed(text: str, *command: str, times: float = 1) -> None:
        begun, before = time.perf_counter(), spent()
        subprocess.run(command, cwd=where, check=True, capture_output=True)
        wall, busy = time.perf_counter() - begun, spent() - before
        print(f"{text}: {wall * times:.1f} s, {busy * times:.1f} s of processor time", flush=True)

    for batch in ("1", "8"):
        timed(f"a batch, --batch {batch}", *DIFFSR, "in", "-q", "-o", f"b{batch}", "--batch", batch)
    timed("a batch, --jobs 0", *DIFFSR, "in", "-q", "-o", "j0", "--jobs", "0")
    timed("a loop over the API", sys.executable, "-c", loop, *files)
    some = "; ".join(f"{' '.join(DIFFSR)} {name} -q -o single/" for name in files[:single])
    timed(f"separate runs ({single}, times {count // single})", "sh", "-c", some,
          times=count / single)  # fmt: skip


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    base = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    {"crash": crash, "shards": shards, "ray": ray, "speed": speed}[sys.argv[1]](base / sys.argv[1])
