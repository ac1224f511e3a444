"""While things break: file systems without links, full disks, memory that runs out, folders that
vanish, processes that are killed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_fake import FakeUpscaler
from test_cli import picture
from test_cli_faults import FAKE, started

import upscale.cli.upscale.command as command_module
from upscale import atomic
from upscale.cli.main import explained
from upscale.errors import DiskFull, OutOfMemory, OutputError

# A program in another process of this machine that begins a file and waits.
WRITER = """
import sys, time
from pathlib import Path
from upscale import atomic
{before}
with atomic.placed(Path(sys.argv[1]), overwrite=False) as file:
    file.write(b"half")
    file.flush()
    print("begun", flush=True)
    time.sleep(30)
"""


def writer(env, target: Path, before: str = "") -> subprocess.Popen:
    program = [sys.executable, "-c", WRITER.format(before=before), str(target)]
    process = subprocess.Popen(program, env=env, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    return process


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".diffsr-*"))


def put(target: Path) -> None:
    with atomic.placed(target, overwrite=False) as file:
        file.write(b"whole")


@pytest.fixture(autouse=True)
def unswept():
    atomic._swept.clear()


# --- unfinished files ---------------------------------------------------------------------------


def test_what_a_killed_process_left_is_swept_by_the_next(env, tmp_path):
    killed, alive = writer(env, tmp_path / "a.png"), writer(env, tmp_path / "b.png")
    assert len(parts(tmp_path)) == 2
    killed.kill()
    killed.communicate()
    try:
        put(tmp_path / "c.png")
        assert len(parts(tmp_path)) == 1  # that of the one at work
    finally:
        alive.terminate()
        alive.communicate()
    atomic.remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]


def test_what_is_not_ours_is_not_swept(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("mine")
    (tmp_path / ".diffsr-link.part").symlink_to(own)
    (tmp_path / ".diffsr-00000000-0123456789abcdef.part").write_bytes(b"another machine's")
    (tmp_path / ".diffsr-folder.part").mkdir()
    atomic.remove_unfinished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4 and own.read_text() == "mine"


def test_a_file_that_is_swept_as_it_begins_is_begun_again(tmp_path, monkeypatch):
    true, taken = atomic._locked, []

    def locked(handle: int) -> bool | None:
        if not taken:
            taken.append(1)
            for part in parts(tmp_path):
                part.unlink()
        return true(handle)

    monkeypatch.setattr(atomic, "_locked", locked)
    put(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"whole" and len(list(tmp_path.iterdir())) == 1


def test_without_locks_nothing_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_locked", lambda _: None)
    (tmp_path / ".diffsr-0123.part").write_bytes(b"somebody's")
    put(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"whole" and len(parts(tmp_path)) == 1


def test_unfinished_files_have_names_of_chance_and_follow_no_link(tmp_path, monkeypatch):
    names = set()
    for _ in range(20):
        with atomic.replacing(tmp_path / "a.bin") as part:
            names.add(part.name)
    assert len(names) == 20
    own, drawn = tmp_path / "own.txt", iter(["0" * 16, "1" * 16])
    own.write_text("mine")
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: next(drawn))
    (tmp_path / f".diffsr-{atomic._HERE}-{'0' * 16}.part").symlink_to(own)
    with pytest.raises(OutputError):
        put(tmp_path / "b.bin")
    assert own.read_text() == "mine" and not (tmp_path / "b.bin").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_among_samples_on_a_slow_disk_leaves_nothing(env, tmp_path, number):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    process = started({**env, "FAKE_SLOW_WRITE": "1"}, tmp_path, "a.png", "b.png", "--samples", "4",
                      until=lambda: parts(tmp_path))  # fmt: skip
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert not parts(tmp_path)


# --- no hard links ------------------------------------------------------------------------------

NO_LINKS = """
import errno, os, signal
def refused(*_, **__): raise OSError(errno.EPERM, "no links here")
os.link = refused
"""


@pytest.mark.parametrize("rename", [True, False])
def test_no_empty_file_holds_the_name_without_hard_links(tmp_path, monkeypatch, rename):
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    seen, target = [], tmp_path / "a.png"
    for name in ("link", "rename", "replace"):
        true = getattr(os, name)
        look = lambda *names, true=true: (seen.append(target.exists()), true(*names))  # noqa: E731
        monkeypatch.setattr(os, name, refused if name == "link" else look)
    if not rename:
        monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    put(target)
    assert not any(seen) and target.read_bytes() == b"whole"
    with pytest.raises(OutputError, match="exists"):
        put(target)
    (tmp_path / "b.png").symlink_to(tmp_path / "none")
    with pytest.raises(OutputError, match="exists"):
        put(tmp_path / "b.png")
    assert len(list(tmp_path.iterdir())) == 2


# --- full disks, memory -------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("args", [("--json",), (), ("-o", "-")])
def test_a_full_disk_under_standard_output(env, tmp_path, args):
    picture(tmp_path / "a.png")
    with open("/dev/full", "wb") as full:
        made = subprocess.run([*FAKE, "a.png", *args], env=env, cwd=tmp_path, stdout=full,
                              stderr=subprocess.PIPE, timeout=60)  # fmt: skip
    assert made.returncode == 4 and b"disk is full" in made.stderr, made.stderr
    assert b"Traceback" not in made.stderr and b"Exception ignored" not in made.stderr


def test_a_full_disk_under_the_help(env, tmp_path):
    with open("/dev/full", "wb") as full:
        made = subprocess.run([*FAKE, "--help"], env=env, cwd=tmp_path, stdout=full,
                              stderr=subprocess.PIPE, timeout=60)  # fmt: skip
    assert made.returncode == 4 and b"Exception ignored" not in made.stderr, made.stderr


def test_a_full_disk_under_the_ledger(inside, tmp_path, monkeypatch):
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    picture(tmp_path / "a.png")
    monkeypatch.setattr("upscale.batch.ledger.os.write", fail)
    code, told = inside("a.png", "--resume", "done.jsonl")
    assert code == 4 and "no space left for the ledger" in told


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
    ],
)
def test_what_ran_out_is_named_wherever_it_ran_out(error, kind):
    assert type(explained(error)) is kind and explained(error).exit_code == 4


@pytest.mark.parametrize("where", ["plan", "read"])
def test_memory_that_runs_out_outside_the_network(inside, tmp_path, monkeypatch, where):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")

    picture(tmp_path / "a.png")
    if where == "plan":
        monkeypatch.setattr(FakeUpscaler, "plan", fail)
    else:
        monkeypatch.setattr("upscale.batch.reading.prepare", fail)
    code, told = inside("a.png")
    assert code == 4 and "memory ran out" in told


# --- folders that vanish ------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["midway", "at the end"])
@pytest.mark.parametrize("jobs", ["0", "2"])
def test_an_output_folder_removed_midway_is_no_success(inside, tmp_path, monkeypatch, when, jobs):
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    true, runs, written = FakeUpscaler.run, [], {"a_x4.png", "b_x4.png"}

    def run(self, *args: object, **named: object) -> object:
        runs.append(1)
        if len(runs) == 3 and when == "midway":  # nobody writes at this moment
            _await(lambda: {path.name for path in (tmp_path / "out").iterdir()} == written)
            shutil.rmtree(tmp_path / "out")
        return true(self, *args, **named)

    monkeypatch.setattr(FakeUpscaler, "run", run)
    if when == "at the end":
        true_put = command_module.run.run

        def put_and_remove(account, items, options):
            ended = account.summary
            account.summary = lambda left: (shutil.rmtree(tmp_path / "out"), ended(left))
            return true_put(account, items, options)

        monkeypatch.setattr(command_module.run, "run", put_and_remove)
    code, told = inside("a.png", "b.png", "c.png", "d.png", "-o", "out/", "--jobs", jobs)
    assert code == 1 and "removed while diffsr wrote into it" in told


def _await(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not happened() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_killed_at_any_moment_a_name_stands_for_a_whole_file(env, tmp_path, links):
    program = (NO_LINKS if not links else "") + (
        "import sys\nfrom pathlib import Path\nfrom upscale import atomic\n"
        "for n in range(10**6):\n"
        "    with atomic.placed(Path(sys.argv[1]) / f'{n}.bin', overwrite=False) as file:\n"
        "        file.write(b'x' * 1000)\n"
    )
    for round in range(30):
        folder = tmp_path / str(round)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], env=env)
        _await((folder / "0.bin").exists)
        time.sleep(0.003 * round)
        process.kill()
        process.wait()
        assert {path.stat().st_size for path in folder.glob("*.bin")} == {1000}
        put(folder / "next.png")
        assert not parts(folder)
