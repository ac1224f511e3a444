"""A benchmark that was killed goes on; nothing stale is ever taken for a measurement."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from upscale.bench import cache as module
from upscale.bench.cache import Cache, Measured
from upscale.bench.run import run
from upscale.bench.trials import BenchSettings
from upscale.image.encode import write
from upscale.image.picture import Picture

SETTINGS = BenchSettings(methods=("bicubic", "lanczos"), metrics=("psnr", "ssim"), device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    for name in "abc":
        write(Picture(rng.random((40, 52, 3)).astype(np.float32)), tmp_path / "set" / f"{name}.png")
    return tmp_path


def measure(
    folder: Path, settings: BenchSettings = SETTINGS, **rest
) -> tuple[list[dict], list[str]]:
    """(rows, what had to be enlarged)."""
    from upscale.bench.run import _upscaler

    enlarged = []

    def make(trial, settings):
        upscaler = _upscaler(trial, settings)

        class Counting:
            plan = upscaler.plan

            def run(self, *args, **kwargs):
                enlarged.append(trial.method)
                return upscaler.run(*args, **kwargs)

        return Counting()

    rows = run(folder / "set", settings, cache=Cache(folder / "cache"), make_upscaler=make, **rest)
    return rows, enlarged


def test_an_interrupted_run_goes_on_where_it_stopped(folder: Path) -> None:
    def stop(row, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(folder, on_row=stop)
    rows, enlarged = measure(folder)
    assert len(enlarged) == 2 and len(rows) == 6
    again, none = measure(folder)
    assert none == [] and again == rows
    fresh = run(folder / "set", SETTINGS)
    costs = ("seconds", "megapixels_per_s", "peak_memory", "peak_mib")
    for row, other in zip(rows, fresh, strict=True):
        assert {k: v for k, v in row.items() if k not in costs} == {
            k: v for k, v in other.items() if k not in costs
        }


def test_what_changes_a_number_is_measured_anew(folder: Path, monkeypatch) -> None:
    measure(folder)
    for changed in (
        replace(SETTINGS, seed=1), replace(SETTINGS, scales=(2.0,)), replace(SETTINGS, crop=64),
        replace(SETTINGS, metrics=("psnr",)), replace(SETTINGS, dtype="fp32"),
    ):  # fmt: skip
        assert len(measure(folder, changed)[1]) == 6
    write(Picture(np.zeros((40, 52, 3), np.float32)), folder / "set" / "a.png", overwrite=True)
    assert len(measure(folder)[1]) == 2
    monkeypatch.setattr(module, "_code", lambda: "another version of the source")
    assert len(measure(folder)[1]) == 6
    assert len(measure(folder, save=folder / "out")[1]) == 6  # files have to be made


def test_a_damaged_entry_is_no_entry(folder: Path) -> None:
    measure(folder)
    entries = sorted((folder / "cache").rglob("*.npz"))
    entries[0].write_bytes(entries[0].read_bytes()[:200])
    entries[1].write_bytes(b"")
    rows, enlarged = measure(folder)
    assert len(entries) == len(rows) == 6 and len(enlarged) == 2
    assert not list((folder / "cache").rglob("*.tmp"))


def test_what_is_kept_comes_back_exactly(tmp_path: Path) -> None:
    store = Cache(tmp_path)
    row = {"psnr": 20.123456789012345, "picture": "ä.png", "lpips": float("nan"), "nfe": None}
    key = store.key(a=1, b=(2.5, "x"))
    assert key == store.key(b=(2.5, "x"), a=1) != store.key(a=1, b=(2.5, "y"))
    cut = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    store.put(key, Measured(row, {"sr": cut}))
    found = store.get(key)
    assert repr(found.row) == repr(row) and (found.arrays["sr"] == cut).all()
    assert store.get("ab" * 32) is None
    Cache(None).put(key, found)
    assert Cache(None).get(key) is None


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(folder: Path) -> None:
    (folder / "cache").write_text("a file where the folder should be")
    assert len(measure(folder)[1]) == 6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_process_leaves_what_it_measured(folder: Path) -> None:
    """SIGKILL while it works: whole entries, and no other files."""
    for name in "defghijk":
        (folder / "set" / f"{name}.png").write_bytes((folder / "set" / "a.png").read_bytes())
    command = [sys.executable, "-m", "upscale", "bench", "--dataset", str(folder / "set"),
               "--method", "bicubic,lanczos", "--metrics", "psnr,lpips", "--device", "cpu",
               "--cache", str(folder / "cache"), "-q"]  # fmt: skip
    alike = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads are part of what is remembered
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=alike
    )
    while process.poll() is None and not list((folder / "cache").rglob("*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    entries = list((folder / "cache").rglob("*.npz"))
    assert entries
    found = [Cache(folder / "cache").get(path.stem) for path in entries]
    assert all(one is not None and "lpips" in one.row for one in found)
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, env=alike)
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "cache").rglob("*.npz"))) == 22


def test_numbers_beside_the_source_count_as_source(tmp_path, monkeypatch):
    """What LPIPS's like and the choice of weights read (`.npz`) decides figures as code does."""
    place = tmp_path / "image" / "gain.npz"
    place.parent.mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "bench" / "cache.py"))
    hashes = []
    for content in (b"first", b"second", b"first"):
        place.write_bytes(content)
        hashes.append(module._code.__wrapped__())
    assert hashes[0] == hashes[2] != hashes[1]
