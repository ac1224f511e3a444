"""Batches from end to end: the ledger, kills, shards, timeouts, a pipeline that stays open."""

from __future__ import annotations

import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_fake import FakeUpscaler
from PIL import Image
from test_cli import picture, run
from test_cli_faults import FAKE

from upscale.batch.engine import Engine, Pace
from upscale.batch.files import Files
from upscale.batch.job import Job
from upscale.batch.names import Item, Source
from upscale.errors import InputError, OutputError, TimedOut
from upscale.pipeline.request import Request, Setup


def folder(path: Path, count: int, broken: int = 0) -> Path:
    """`count` small pictures, of which the first `broken` are none."""
    path.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 255, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03}.png")
    for number in range(broken):
        (path / f"{number:03}.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# --- ledger -------------------------------------------------------------------------------------


def test_a_line_for_every_picture_and_nothing_twice(here, calls):
    folder(here / "in", 20, broken=3)
    args = ("in", "-o", "out", "--resume", "l.jsonl")
    made = run(*args, code=1)
    assert len(made.stdout.split()) == len(os.listdir("out")) == 17
    found = lines(here / "l.jsonl")
    assert Counter(line["status"] for line in found) == {"ok": 17, "failed": 3}
    assert {line["code"] for line in found if line["status"] == "failed"} == {3}
    ok = next(line for line in found if line["status"] == "ok")
    assert {"input", "sha256", "settings", "outputs", "seconds", "time"} <= ok.keys()
    before, count = {p: os.stat(p).st_ino for p in Path("out").iterdir()}, len(calls)
    again = run(*args, code=1)
    assert again.stdout == "" and "17 pictures were done before" in again.stderr
    assert len(calls) == count  # nothing was enlarged
    assert {p: os.stat(p).st_ino for p in Path("out").iterdir()} == before


def test_a_ledger_beside_the_results_makes_their_folder(here, calls):
    folder(here / "in", 1)
    run("in", "-o", "out/new", "--resume", "out/new/l.jsonl", "--dry-run")
    assert not (here / "out").exists()
    run("in", "-o", "out/new", "--resume", "out/new/l.jsonl")
    assert lines(here / "out/new/l.jsonl")[0]["status"] == "ok"


def test_what_changed_is_done_again_and_only_that(here, calls):
    folder(here / "in", 4)
    args = ("in", "-o", "out", "--resume", "l.jsonl")
    run(*args)
    Image.new("RGB", (6, 5), "red").save("in/001.png")  # another content
    os.unlink("out/002_x4.png")  # an output that is gone
    assert run(*args).stdout.split() == ["out/001_x4.png", "out/002_x4.png"]
    with Image.open("out/001_x4.png") as image:
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert len(run(*args, "--seed", "5").stdout.split()) == 4  # other settings
    Image.new("RGB", (24, 20)).save("out/003_x4.png")  # the user's own by now
    assert "exists" in run(*args, "--seed", "6", code=1).stderr
    with Image.open("out/003_x4.png") as image:
        assert image.getpixel((0, 0)) == (0, 0, 0)


def test_files_that_a_crash_left_without_a_line_are_taken_for_done(here, calls):
    folder(here / "in", 3)
    args = ("in", "-o", "out", "--resume", "l.jsonl")
    run(*args)
    inodes = {p: os.stat(p).st_ino for p in Path("out").iterdir()}
    whole = (here / "l.jsonl").read_bytes()
    (here / "l.jsonl").write_bytes(whole[: len(whole) // 2])
    run(*args)
    assert {p: os.stat(p).st_ino for p in Path("out").iterdir()} == inodes
    Image.new("RGB", (24, 20)).save("out/000_x4.png")  # what nobody's ledger knows
    os.unlink("l.jsonl")
    assert "exists" in run(*args, code=1).stderr


@pytest.mark.parametrize("ledger", [(), ("--resume", "l.jsonl")])
def test_an_equal_output_that_appears_meanwhile_counts(here, calls, ledger, monkeypatch):
    folder(here / "in", 3)
    run("in", "-o", "other")
    enlarge, made = FakeUpscaler.run, here / "out"
    if ledger:
        run("in/000.png", "-o", "elsewhere/", *ledger)

    def meanwhile(self, plan, picture, **how):
        # another process is done with two, and a third one is the user's
        for name in ("000_x4.png", "001_x4.png"):
            if not (made / name).exists():
                (made / name).write_bytes((here / "other" / name).read_bytes())
        (made / "002_x4.png").write_bytes(b"mine")
        return enlarge(self, plan, picture, **how)

    monkeypatch.setattr(FakeUpscaler, "run", meanwhile)
    told = run("in", "-o", "out", *ledger, code=1)
    assert told.stdout.split() == ["out/000_x4.png", "out/001_x4.png"]
    assert "002_x4.png: exists" in told.stderr
    assert (made / "002_x4.png").read_bytes() == b"mine"
    assert not list(made.glob(".diffsr-*"))
    # without a ledger what was there before is an error as ever
    assert ("exists" in run("in", "-o", "out", *ledger, code=1).stderr) and (
        made / "002_x4.png"
    ).read_bytes() == b"mine"


def test_a_large_result_that_appears_meanwhile_counts_too(tmp_path):
    from upscale.image.encode import rows_to
    from upscale.image.picture import Picture

    picture = Picture(np.random.default_rng(0).random((8, 6, 3), dtype=np.float32))

    def stream(**how) -> None:
        with rows_to(tmp_path / "a.png", (8, 6), format="PNG", **how) as add:
            add(picture, None)

    stream()
    before = (tmp_path / "a.png").stat()
    stream(same=True)
    assert (tmp_path / "a.png").stat().st_ino == before.st_ino
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        stream(same=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_failures_alone_are_done_again_on_wish(here, calls):
    folder(here / "in", 6, broken=2)
    args = ("in", "-o", "out", "--resume", "l.jsonl")
    run(*args, code=1)
    Image.new("RGB", (6, 5)).save("in/000.png")
    os.unlink("out/005_x4.png")
    assert run(*args, "--retry-failed", code=1).stdout.split() == ["out/000_x4.png"]
    assert run(*args, code=1).stdout.split() == ["out/005_x4.png"]
    run("in", "--retry-failed", code=2)


def test_a_dry_run_plans_what_the_run_would_do(here, calls):
    folder(here / "in", 4, broken=2)
    args = ("in", "-o", "out", "--resume", "l.jsonl")
    assert len(run(*args, "--dry-run", code=1).stdout.split()) == 2 and os.listdir() == ["in"]
    run(*args, code=1)
    Image.new("RGB", (6, 5)).save("in/000.png")
    os.unlink("out/003_x4.png")
    before = files(here)
    dry = run(*args, "--dry-run", code=1)
    assert dry.stdout.split() == ["out/000_x4.png", "out/003_x4.png"]
    assert "1 picture was done before" in dry.stderr and "\n2 pictures, about" in dry.stderr
    again = run(*args, "--retry-failed", "--dry-run", code=1)
    assert again.stdout.split() == ["out/000_x4.png"]
    skipping = run("in", "-o", "out", "--skip-existing", "--dry-run", code=1)
    assert skipping.stdout == dry.stdout and "002_x4.png: exists, skipped" in skipping.stderr
    assert files(here) == before


def test_enough_failures_end_the_run(here, calls):
    folder(here / "in", 30, broken=10)
    made = run("in", "-o", "out", "--max-failures", "4", "--jobs", "1", code=3)
    assert "--max-failures is reached with" in made.stderr
    assert 4 <= made.stderr.count("Error: in/") < 10


def test_what_is_missing_counts_as_a_failure(here, calls):
    folder(here / "in", 3)
    args = ("none.png", "in", "-o", "out", "--max-failures")
    assert "3 more pictures were not started" in run(*args, "1", code=3).stderr
    assert os.listdir("out") == []
    assert len(run(*args, "2", code=1).stdout.split()) == 3


def test_a_ledger_needs_files(here, calls):
    data = (folder(here / "in", 1) / "000.png").read_bytes()
    assert "lists files" in run("-", "--resume", "l.jsonl", input=data, code=2).told
    (here / "text").write_text("no\nledger\n")
    assert "is not a ledger" in run("in", "--resume", "text", code=3).told
    run("in", "--resume", "none/l.jsonl", code=1)


# --- kills --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_random_and_run_again(env, tmp_path):
    folder(tmp_path / "in", 40, broken=4)
    command = [*FAKE, "in", "-o", "out", "--resume", "l.jsonl"]
    slow, rng = {**env, "FAKE_SLEEP": "0.002"}, random.Random(1)
    for _ in range(2):
        process = subprocess.Popen(command, env=slow, cwd=tmp_path, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        end = time.monotonic() + 30
        wanted = len(list((tmp_path / "out").glob("*"))) + rng.randint(2, 9)
        while time.monotonic() < end and process.poll() is None:
            if (tmp_path / "out").exists() and len(os.listdir(tmp_path / "out")) >= wanted:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    inodes = {p.name: p.stat().st_ino for p in (tmp_path / "out").glob("*.png")}
    last = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=240)
    assert last.returncode == 1, last.stderr
    made = files(tmp_path / "out")
    whole = {name: data for name, data in made.items() if name.endswith(".png")}
    assert len(whole) == 36
    for name in whole:
        with Image.open(tmp_path / "out" / name) as image:
            image.load()
    again = {p.name: p.stat().st_ino for p in (tmp_path / "out").glob("*.png")}
    assert inodes.items() <= again.items()  # what was there was not written a second time
    ok = Counter(
        line["outputs"][0]["path"]
        for line in map(_parsed, (tmp_path / "l.jsonl").read_text().splitlines())
        if line and line["status"] == "ok"
    )
    assert len(ok) == 36 and set(ok.values()) == {1}
    plain = subprocess.run([*FAKE, "in", "-o", "plain"], env=env, cwd=tmp_path, timeout=240,
                           capture_output=True)  # fmt: skip
    assert plain.returncode == 1 and files(tmp_path / "plain") == whole


def _parsed(line: str) -> dict | None:
    try:
        return json.loads(line)
    except ValueError:  # torn by the kill
        return None


# --- shards -------------------------------------------------------------------------------------


def test_shards_together_are_the_whole(here, calls, monkeypatch):
    folder(here / "in", 24, broken=2)
    (here / "in/000.jpg").write_bytes((here / "in/003.png").read_bytes())  # shares a stem
    args = ("in", "--format", "png", "--samples", "1")
    run(*args, "-o", "whole", code=1)
    for index in range(3):
        run(*args, "-o", "parts", "--shard", f"{index}/3", "--resume", f"{index}.jsonl",
            code=None)  # fmt: skip
    assert files(here / "parts") == files(here / "whole")
    merged = b"".join((here / f"{index}.jsonl").read_bytes() for index in (2, 0, 1))
    (here / "all.jsonl").write_bytes(merged)
    assert len(lines(here / "all.jsonl")) == 25
    count = len(calls)
    run(*args, "-o", "parts", "--resume", "all.jsonl", code=1)
    assert len(calls) == count
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    auto = run(*args, "-o", "x", "--shard", "auto", "--dry-run", code=None).stdout
    assert auto == run(*args, "-o", "x", "--shard", "1/3", "--dry-run", code=None).stdout != ""
    run(*args, "--shard", "3/3", code=2)


def test_pictures_of_one_name_are_spread_over_the_shards(here, calls):
    listed = [f"{number}/cover.png" for number in range(9)]
    for name in listed:
        picture(here / name)
    (here / "list.txt").write_text("\n".join(listed))
    for args in (["--from-file", "list.txt"], ["*/cover.png"]):
        done = [run(*args, "-o", "out/", "--shard", f"{n}/3", "--dry-run").stdout for n in range(3)]
        assert all(done)
        assert len("".join(done).split()) == 9


# --- time and memory ----------------------------------------------------------------------------


def engine(tmp_path: Path, count: int, pace: Pace, **slow) -> list:
    """Tickets of `count` pictures done by the fake."""
    source = folder(tmp_path / "in", count)
    items = [
        Item(Source(str(path), Path(path.name)), "PNG", (tmp_path / f"{path.stem}_x4.png",))
        for path in sorted(source.iterdir())
    ]
    return list(Engine(Job(FakeUpscaler), pace).run(items))


def test_order_is_kept_and_all_threads_give_the_same(tmp_path):
    for name, pace in {"a": Pace(0), "b": Pace(1), "c": Pace(5), "d": Pace(3, 4)}.items():
        (tmp_path / name).mkdir()
        tickets = engine(tmp_path / name, 23, pace)
        assert [t.item.source.inside.name for t in tickets] == [f"{n:03}.png" for n in range(23)]
        assert {t.record["status"] for t in tickets} == {"ok"}
    made = [{p.name: p.read_bytes() for p in (tmp_path / n).glob("*.png")} for n in "abcd"]
    assert made[0] == made[1] == made[2] == made[3] and len(made[0]) == 23


def test_a_picture_that_takes_too_long_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SLEEP", "0.2")  # a step; there are four
    tickets = engine(tmp_path, 2, Pace(1, 1, timeout=0.5))
    assert all(isinstance(ticket.error, TimedOut) for ticket in tickets)
    assert "not done within 0.5 s (enlarging)" in str(tickets[0].error)
    assert not list(tmp_path.glob("*_x4.png"))


def test_a_large_picture_without_a_network_is_given_up_too(tmp_path, monkeypatch):
    """A resize has no calls between which it could be; but it asks before each band of rows."""
    from upscale.batch import job

    def streamed(job_, ticket, *rest):
        time.sleep(0.6)
        ticket.check()

    monkeypatch.setattr(job, "enlarge", streamed)
    (ticket,) = engine(tmp_path, 1, Pace(1, 1, timeout=0.5))
    assert "not done within 0.5 s (enlarging)" in str(ticket.error)


@pytest.mark.parametrize("where", ["reading", "writing"])
def test_a_file_that_hangs_is_given_up_and_the_next_is_done(tmp_path, monkeypatch, where):
    """As on a network drive that does not answer."""
    from upscale.batch import job, reading

    place, name = (reading, "prepare") if where == "reading" else (job, "_put")
    true, hung = getattr(place, name), []

    def hangs_once(job_, ticket, *rest):
        if ticket.item.source.inside.name == "001.png":
            hung.append(1)
            time.sleep(30)
        return true(job_, ticket, *rest)

    monkeypatch.setattr(place, name, hangs_once)
    started = time.monotonic()
    tickets = engine(tmp_path, 4, Pace(1, 1, timeout=1.0))
    assert [type(ticket.error) for ticket in tickets] == [type(None), TimedOut] + [type(None)] * 2
    assert where in str(tickets[1].error) and hung and time.monotonic() - started < 25


def test_a_file_that_hangs_is_given_up_without_a_timeout_too(tmp_path, monkeypatch):
    """After a time that grows with its pixels, once they are known."""
    from upscale.batch import engine as engine_module
    from upscale.batch import reading

    true, asked = reading.prepare, []

    def hangs_once(job_, ticket):
        if ticket.item.source.inside.name == "001.png":
            ticket.pixels = 50
            time.sleep(30)
        return true(job_, ticket)

    def patience(pixels):
        asked.append(pixels)
        return 0.5 + pixels / 100 if pixels <= 50 else 20

    monkeypatch.setattr(reading, "prepare", hangs_once)
    monkeypatch.setattr(engine_module, "patience", patience)
    tickets = engine(tmp_path, 3, Pace(1))
    assert [type(ticket.error) for ticket in tickets] == [type(None), TimedOut, type(None)]
    assert "not done within 1 s (reading)" in str(tickets[1].error)
    assert max(asked) > 50  # those of a result


def test_few_pictures_are_held_at_a_time(tmp_path):
    """However many there are: what is read ahead and what waits to be written are bounded."""
    alive, most = set(), 0

    class Counting(FakeUpscaler):
        def run(self, plan, picture, **settings):
            nonlocal most
            import weakref

            result = super().run(plan, picture, **settings)
            alive.add(id(result.picture))
            weakref.finalize(result.picture, alive.discard, id(result.picture))
            most = max(most, len(alive))
            return result

    source = folder(tmp_path / "in", 60)
    items = [
        Item(Source(str(path), Path(path.name)), "PNG", (tmp_path / path.name,))
        for path in sorted(source.iterdir())
    ]
    for ticket in Engine(Job(Counting), Pace(2)).run(items):
        assert ticket.picture is None
    assert 1 <= most <= 5


# --- a pipeline that stays open -----------------------------------------------------------------


def test_watch_answers_each_line_before_the_next(env, tmp_path):
    folder(tmp_path / "in", 3, broken=1)
    process = subprocess.Popen(
        [*FAKE, "upscale", "--from-file", "-", "--watch", "-o", "out"], env=env, cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ask(line: str) -> dict:
        process.stdin.write((line + "\n").encode())
        process.stdin.flush()
        assert select.select([process.stdout], [], [], 20)[0], "no answer"
        return json.loads(process.stdout.readline())

    first = ask("in/001.png")
    assert (first["status"], first["output"]) == ("ok", "out/001_x4.png")
    assert ask("in/000.png")["kind"] == "InputError"
    assert "no such file" in ask("none.png")["error"]
    own = ask(json.dumps({"input": "in/002.png", "output": "new/x.png", "id": [7]}))
    assert (own["id"], own["output"], own["status"]) == ([7], "new/x.png", "ok")
    assert "exists" in ask("in/001.png")["error"]
    assert "JSON" in ask("{")["error"] and "id" not in ask('{"inputs": "x"}')
    for line in (
        '{"input": ' + "[" * 100_000, '{"id": ' + "9" * 5000 + "}", '{"input": "a\\u0000b"}',
        '{"input": "\\ud800.png"}', "a\0b", '{"input": "in/002.png", "output": "\\ud800.png"}',
        '{"input": "in/002.png", "output": "a\\u0000.png"}', "x" * 1_100_000, "{}", "in", " ",
        '{"input": "in/002.png", "output": ""}', '{"input": "in/002.png", "output": "."}',
    ):  # fmt: skip
        if line.strip():
            assert ask(line)["status"] in ("failed", "ok")
    assert ask("in/002.png")["status"] == "ok"
    process.stdin.close()
    assert process.wait(20) == 1
    assert (tmp_path / "new/x.png").exists()
    process.stdout.close()


@pytest.mark.parametrize(
    "args",
    [
        ["in", "--watch"],
        ["--watch"],
        ["--from-file", "-", "--watch", "--shard", "0/2"],
        ["--from-file", "-", "--watch", "--batch", "2"],
        ["--from-file", "-", "--watch", "-o", "-"],
        ["in", "--workers", "2"],
        ["in", "--worker-gpus", "0.25"],
        ["in", "--address", "auto"],
        ["in", "--batch", "0"],
        ["in", "--timeout", "0"],
        ["in", "--engine", "spark"],
    ],
)
def test_what_cannot_be_meant(here, calls, args):
    folder(here / "in", 1)
    run(*args, code=2, input=b"")
    assert calls == []


# --- object stores ------------------------------------------------------------------------------


def test_from_store_to_store(here, calls):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    for name, path in files(folder(here / "in", 3, broken=1)).items():
        store.pipe_file(f"/photos/sub/{name}", path)
    args = ("memory://photos", "-o", "memory://large/", "--resume", "l.jsonl")
    made = run(*args, code=1)
    assert made.stdout.split() == [f"memory://large/sub/{n}_x4.png" for n in ("001", "002")]
    assert sorted(store.find("/large")) == ["/large/sub/001_x4.png", "/large/sub/002_x4.png"]
    count = len(calls)
    assert run(*args, code=1).stdout == "" and len(calls) == count
    assert "exists" in run(*args[:3], code=1).stderr
    run("memory://nothing", "-o", "x", code=3)
    inside = ("memory://photos", "-o", "memory://photos/large/", "--skip-existing")
    assert len(run(*inside, code=1).stdout.split()) == 2
    assert run(*inside, code=1).stdout == ""  # what it has made is no input
    beside = ("memory://photos/sub", "--skip-existing")
    assert len(run(*beside, code=1).stdout.split()) == 2
    again = run(*beside, code=1)
    assert again.stdout == "" and "2 earlier results in these folders skipped" in again.stderr


# --- Ray ----------------------------------------------------------------------------------------


def test_ray_is_named_where_it_is_missing(here, calls, monkeypatch):
    folder(here / "in", 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "upscale.batch.ray_engine", raising=False)
    assert "diffsr[ray]" in run("in", "--engine", "ray", code=2).told


@pytest.mark.parametrize(
    "device, there, claimed",
    [("auto", 4.0, 1), ("auto", 0.0, 0), ("cuda:0", 0.0, 1), ("cpu", 4, 0)],
)
def test_a_worker_of_ray_claims_a_gpu_where_there_is_one(monkeypatch, device, there, claimed):
    cluster = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, "GPU": there})
    monkeypatch.setitem(sys.modules, "ray", cluster)
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "upscale.batch.ray_engine", raising=False)
    engine = importlib.import_module("upscale.batch.ray_engine")
    monkeypatch.delitem(sys.modules, "upscale.batch.ray_engine")
    assert engine._gpus(device) == claimed


@pytest.mark.slow
def test_a_worker_of_ray_does_what_is_done_here(tmp_path):
    """Without a cluster: the actor's own code."""
    pytest.importorskip("ray")
    import pickle

    from upscale.batch.ray_engine import Worker

    source = folder(tmp_path / "in", 2, broken=1)
    worker = Worker(Setup("bicubic"), Request(), Files(), "s", None, str(tmp_path))
    items = [
        Item(Source(str(path), Path(path.name)), "PNG", (tmp_path / path.name,))
        for path in sorted(source.iterdir())
    ]
    rows = [pickle.dumps((n, item, False)) for n, item in enumerate(items)]
    for _ in range(2):  # the second time as after a crash: the file is there already
        bad, good = map(json.loads, worker({"work": rows})["outcome"])
        assert (bad["kind"], bad["number"], good["record"]["status"]) == ("InputError", 0, "ok")
        assert good["line"]["outputs"][0]["path"] == str(tmp_path / "001.png")
    assert InputError.__name__ == bad["kind"]
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.slow
def test_a_cluster_makes_the_same_files(env, tmp_path):
    """Two workers of a cluster on this machine: half a minute, where Ray is installed."""
    pytest.importorskip("ray")
    folder(tmp_path / "in", 6, broken=1)
    base = [sys.executable, "-m", "upscale", "in", "--method", "bicubic", "-q"]
    alone = subprocess.run([*base, "-o", "here"], env=env, cwd=tmp_path, capture_output=True)
    cluster = ["-o", "ray", "--engine", "ray", "--workers", "2", "--resume", "l.jsonl"]
    ray = subprocess.run([*base, *cluster], env=env, cwd=tmp_path, capture_output=True)
    if b"Ray did not start" in ray.stderr:
        pytest.skip("this machine is too busy for Ray: it gives up after a while")
    assert (alone.returncode, ray.returncode) == (1, 1), ray.stderr.decode()
    assert files(tmp_path / "ray") == files(tmp_path / "here") != {}
    assert Counter(line["status"] for line in lines(tmp_path / "l.jsonl")) == {"ok": 5, "failed": 1}
