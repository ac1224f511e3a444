"""The parts of a batch, one by one: shards, ledgers, threads, lockstep, object stores."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from upscale.batch import forecast, remote
from upscale.batch.forecast import Forecast, Remaining, sizes_of
from upscale.batch.ledger import Content, Ledger, content_of, settings_hash
from upscale.batch.lockstep import Lockstep
from upscale.batch.names import Item, Source
from upscale.batch.remote import Remote
from upscale.batch.shard import Shard, parse
from upscale.batch.workers import Workers
from upscale.document import duration
from upscale.errors import DiskFull, InputError, OutputError, UsageError
from upscale.image.picture import Picture
from upscale.pipeline.upscaler import Upscaler

# --- time ---------------------------------------------------------------------------------------


def test_what_is_left_follows_from_pixels_not_from_pictures() -> None:
    now = iter([10.0, 10.0, 10.0, 40.0]).__next__
    left = Remaining(4, {"a": 100, "b": 300, "c": 200}, clock=now)  # the fourth is as the mean
    assert left.after("a", 2.0) == "about 14 s left"  # 700 at 50 a second
    assert left.after("c", None) == "about 10 s left"  # not made: 100 of 500
    assert left.after("b", 30.0) == "about 16 s left"
    assert left.after("d", 1.0) == ""
    assert [duration(s) for s in (0.04, 40, 200, 8000, 2e5)] == [
        "0.0 s",
        "40 s",
        "3 min",
        "2 h 13 min",
        "2.3 days",
    ]


def test_a_forecast_times_each_network_once(tiny_weights) -> None:
    upscaler, forecast = Upscaler(weights=tiny_weights, device="cpu"), Forecast()
    picture = Picture(np.random.default_rng(0).random((600, 900, 3), np.float32))
    plans = [upscaler.plan(picture, scale=scale) for scale in (2, 4)]
    seconds = [forecast.seconds(upscaler, plan, picture) for plan in plans]
    assert 3 < seconds[1] / seconds[0] < 5 and len(forecast._rates) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file that hangs")
def test_a_file_that_hangs_does_not_hold_the_forecast(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(forecast, "_LOOKING", 0.2)
    Image.new("L", (6, 5)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    items = [Item(Source(str(path), Path(path.name)), "PNG") for path in sorted(tmp_path.iterdir())]
    assert sizes_of(items) == {str(tmp_path / "a.png"): 30}


# --- shards -------------------------------------------------------------------------------------


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 9))
def test_every_picture_is_in_just_one_shard(names, count) -> None:
    for name in names:
        name = name.encode("utf-8", "replace").decode()
        assert sum(Shard(index, count).has(name) for index in range(count)) == 1


def test_shards_never_change() -> None:
    """What a cluster agreed on yesterday holds today."""
    names = ["a.png", "b/c.jpg", "ü.webp", "x y.png"]
    assert [[Shard(i, 3).has(name) for i in range(3)].index(True) for name in names] == [2, 2, 1, 0]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "5"}, (2, 5)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
          "SLURM_ARRAY_TASK_MAX": "3"}, (2, 3)),
        ({"SLURM_ARRAY_TASK_ID": "14", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10",
          "SLURM_ARRAY_TASK_MAX": "14", "SLURM_ARRAY_TASK_STEP": "2"}, (2, 3)),
        ({"RANK": "1", "WORLD_SIZE": "4"}, (1, 4)),
        ({"RANK": "1", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "2",
          "SLURM_ARRAY_TASK_COUNT": "3"}, (9, 12)),
    ],
)  # fmt: skip
def test_shard_of_a_scheduler(env, found) -> None:
    shard = parse("auto", env)
    assert (shard.index, shard.count) == found


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"SLURM_ARRAY_TASK_ID": "1"},
        {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
         "SLURM_ARRAY_TASK_MAX": "7"},  # --array=1,3,7
    ],
)  # fmt: skip
def test_a_scheduler_that_says_nothing_sensible_is_refused(env) -> None:
    with pytest.raises(UsageError, match="--shard auto"):
        parse("auto", env)


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "1/0", ""])
def test_shards_that_are_none(text) -> None:
    with pytest.raises(UsageError, match="write I/N"):
        parse(text, {})


# --- ledger -------------------------------------------------------------------------------------


def item(folder: Path, name: str = "a") -> Item:
    (folder / f"{name}.png").write_bytes(name.encode())
    return Item(Source(str(folder / f"{name}.png"), Path(f"{name}.png")), "PNG",
                (folder / f"{name}_x4.png",))  # fmt: skip


def done(ledger: Ledger, work: Item, made: bytes = b"large") -> None:
    work.outputs[0].write_bytes(made)
    ledger.add(work.source.name, {"status": "ok", "seconds": 1.0}, work,
               content_of(work.source.name))  # fmt: skip


def test_done_until_input_settings_or_output_change(tmp_path) -> None:
    work, path = item(tmp_path), tmp_path / "l.jsonl"
    ledger = Ledger(path, "s")
    assert not ledger.done(work)
    done(ledger, work)
    assert ledger.done(work)  # at once
    ledger.close()
    assert Ledger(path, "s").done(work)  # and from the file
    assert not Ledger(path, "other settings").done(work)
    os.utime(work.source.name, (5, 5))
    assert Ledger(path, "s").done(work)  # another time, the same bytes
    Path(work.source.name).write_bytes(b"b")
    assert not Ledger(path, "s").done(work)
    Path(work.source.name).write_bytes(b"a")
    work.outputs[0].write_bytes(b"cut")
    assert not Ledger(path, "s").done(work)
    work.outputs[0].unlink()
    assert not Ledger(path, "s").done(work)


def test_only_what_was_written_is_owned(tmp_path) -> None:
    work = item(tmp_path)
    ledger = Ledger(tmp_path / "l.jsonl", "s")
    work.outputs[0].write_bytes(b"the user's own")
    assert not ledger.owns(work)
    done(ledger, work)
    assert ledger.owns(work)
    work.outputs[0].write_bytes(b"largE")  # of the same size
    assert not ledger.owns(work)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_loses_only_itself(tmp_path, cut) -> None:
    first, second, path = item(tmp_path, "a"), item(tmp_path, "b"), tmp_path / "l.jsonl"
    ledger = Ledger(path, "s")
    done(ledger, first)
    done(ledger, second)
    ledger.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = Ledger(path, "s")
    assert again.done(first)
    assert again.torn == (cut > 1)  # one byte less: the line is whole, its end is missing
    assert again.done(second) == (cut == 1)
    done(again, second)
    again.close()
    assert Ledger(path, "s").done(first) and Ledger(path, "s").done(second)


def test_ledgers_are_put_together_by_cat(tmp_path) -> None:
    works, whole = [item(tmp_path, name) for name in "abc"], b""
    for number, work in enumerate(works):
        ledger = Ledger(tmp_path / f"{number}.jsonl", "s")
        done(ledger, work)
        ledger.close()
        whole = (tmp_path / f"{number}.jsonl").read_bytes() + whole
    (tmp_path / "all.jsonl").write_bytes(whole)
    assert all(Ledger(tmp_path / "all.jsonl", "s").done(work) for work in works)


def test_failures_are_known_until_they_are_mended(tmp_path) -> None:
    work, path = item(tmp_path), tmp_path / "l.jsonl"
    ledger = Ledger(path, "s")
    ledger.add(work.source.name, {"status": "failed", "error": "e", "kind": "K", "code": 3}, None,
               None)  # fmt: skip
    assert Ledger(path, "s").failed(work.source.name)
    done(ledger, work)
    assert not Ledger(path, "s").failed(work.source.name)


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path) -> None:
    (tmp_path / "notes").write_text("one\ntwo\n")
    with pytest.raises(InputError, match="is not a ledger"):
        Ledger(tmp_path / "notes", "s")
    assert (tmp_path / "notes").read_text() == "one\ntwo\n"


DEEP = "[" * 100_000
LINE = '{"input": "a", "status": "ok", "settings": "s", '


@pytest.mark.parametrize(
    "line",
    [
        LINE + '"outputs": [], "sha256": "", "size": 1, "mtime_ns": 1}',
        LINE + '"outputs": {}, "sha256": "", "size": 1, "mtime_ns": 1}',
        LINE + '"outputs": [{"path": 3, "size": 1, "sha256": ""}], "sha256": "", "size": 1}',
        LINE + '"outputs": ' + DEEP,
        '{"input": 5, "status": "failed", "settings": "s"}',
        '{"input": "a", "status": "strange", "settings": "s"}',
        '{"input": "a", "status": "failed"}',  # one of --json's
        DEEP, "3", "[]", '""', "null", "\0" * 99, "{",
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named_and_passed_over(tmp_path, line) -> None:
    work, path = item(tmp_path), tmp_path / "l.jsonl"
    ledger = Ledger(path, "s")
    done(ledger, work)
    ledger.close()
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    again = Ledger(path, "s")
    assert (again.torn, again.torn_at) == (1, [2]) and again.done(work)
    again.close()
    path.write_text(line + "\n")
    with pytest.raises(InputError, match="is not a ledger"):
        Ledger(path, "s")
    assert path.read_text() == line + "\n"


@pytest.mark.parametrize("text", ["TODO", "{}", '{"input": "a"}\n', "\n\nx", "{'input': 3"])
def test_a_file_of_one_line_that_is_not_ours_is_left_alone(tmp_path, text) -> None:
    (tmp_path / "notes").write_text(text)
    with pytest.raises(InputError, match="is not a ledger"):
        Ledger(tmp_path / "notes", "s")
    assert (tmp_path / "notes").read_text() == text


@pytest.mark.parametrize("text", ["", "\n", '{"inp', '{"input": "a", "sta'])
def test_an_empty_ledger_or_the_first_line_torn_is_taken(tmp_path, text) -> None:
    work, path = item(tmp_path), tmp_path / "l.jsonl"
    path.write_text(text)
    ledger = Ledger(path, "s")
    done(ledger, work)
    ledger.close()
    assert Ledger(path, "s").done(work)


def test_a_line_longer_than_any_of_ours_is_passed_over(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("upscale.batch.ledger._LONGEST", 2000)
    work, path = item(tmp_path), tmp_path / "l.jsonl"
    ledger = Ledger(path, "s")
    done(ledger, work)
    ledger.close()
    path.write_text("x" * 1999 + "\n" + "x" * 10_000 + "\n" + path.read_text())
    again = Ledger(path, "s")
    assert again.torn_at == [1, 2] and again.done(work)


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null", "/dev/zero"])
def test_a_device_is_no_ledger(device) -> None:
    if not os.path.exists(device):
        pytest.skip("no such device here")
    with pytest.raises(InputError, match="is not a file"):
        Ledger(device, "s")


def test_a_line_that_a_full_disk_cuts_loses_only_itself(tmp_path, monkeypatch) -> None:
    """`--watch` goes on once there is room."""
    ledger, write = Ledger(tmp_path / "l.jsonl", "s"), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(DiskFull):
            ledger.append({"input": "a", "status": "failed", "settings": "s"})
    ledger.append({"input": "b", "status": "failed", "settings": "s"})
    ledger.close()
    again = Ledger(tmp_path / "l.jsonl", "s", dry=True)
    assert (again.torn_at, again.failed("a"), again.failed("b")) == ([1], False, True)


def test_many_threads_write_whole_lines(tmp_path) -> None:
    ledger = Ledger(tmp_path / "l", "s")

    def write(name: int) -> None:
        for _ in range(50):
            ledger.append({"input": str(name) * 500, "status": "failed"})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "l").read_text().splitlines()
    assert len(lines) == 300 and all(json.loads(line)["status"] == "failed" for line in lines)


def test_settings_hash_depends_on_values_not_order() -> None:
    assert settings_hash({"a": 1, "b": None}) == settings_hash({"b": None, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_content_of_a_stream_leaves_it_where_it_stood(tmp_path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    with open(tmp_path / "f", "rb") as file:
        file.read(0)
        found = content_of(file)
        assert file.read() == b"12345"
    assert found == content_of(str(tmp_path / "f")) and found.size == 5
    assert isinstance(found, Content)


# --- threads ------------------------------------------------------------------------------------


def test_a_thread_that_hangs_is_told_and_replaced() -> None:
    workers, hang = Workers(1, "t"), threading.Event()
    stuck = workers.submit(hang.wait)
    with pytest.raises(TimeoutError):
        stuck.result(0.05)
    workers.replace_one()
    assert workers.submit(lambda: 7).result(20) == 7
    hang.set()
    workers.end()


def test_errors_come_to_who_waits_and_without_threads_all_is_done_at_once() -> None:
    assert Workers(0, "t").submit(lambda: 3).result() == 3
    workers = Workers(2, "t")
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 / 0).result()
    workers.end()


# --- lockstep -----------------------------------------------------------------------------------


def together(upscaler: Upscaler, pictures: list[Picture], **settings) -> list[Picture]:
    """All of them at the same time, each in a thread."""
    lockstep, made = Lockstep(len(pictures)), [None] * len(pictures)

    def member(number: int) -> None:
        try:
            made[number] = upscaler(pictures[number], call=lockstep.caller(number), **settings)
        finally:
            lockstep.leave()

    threads = [threading.Thread(target=member, args=(n,)) for n in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


def counted(upscaler: Upscaler, monkeypatch) -> list[int]:
    """The sizes of the batches that reach the network."""
    from upscale.nets.compact import CompactNet

    sizes, forward = [], CompactNet.forward

    def count(self, x, cond, c_noise):
        sizes.append(x.shape[0])
        return forward(self, x, cond, c_noise)

    monkeypatch.setattr(CompactNet, "forward", count)
    return sizes


@pytest.mark.parametrize("settings", [{}, {"tile": 128, "overlap": 32, "scale": 8}])
def test_pictures_of_one_size_and_windows_share_batches(tiny_weights, monkeypatch, settings):
    upscaler = Upscaler(weights=tiny_weights, device="cpu", dtype="fp32")
    rng = np.random.default_rng(0)
    pictures = [Picture(rng.random((24, 20, 3), dtype=np.float32)) for _ in range(3)]
    settings = {"scale": 4, **settings}
    alone = [upscaler(picture, **settings) for picture in pictures]
    sizes = counted(upscaler, monkeypatch)
    made = together(upscaler, pictures, **settings)
    assert set(sizes) == {3} and len(sizes) == alone[0].report["nfe"] * (
        4 if "tile" in settings else 1
    )
    for one, three in zip(alone, made, strict=True):
        assert np.abs(one.picture.rgb - three.picture.rgb).max() < 2e-5
        assert one.report["nfe"] == three.report["nfe"]


def test_pictures_of_other_sizes_and_steps_share_what_they_can(tiny_weights, monkeypatch) -> None:
    upscaler = Upscaler(weights=tiny_weights, device="cpu", dtype="fp32")
    rng = np.random.default_rng(1)
    shapes = [(24, 20), (20, 24), (24, 20)]
    pictures = [Picture(rng.random((*shape, 3), dtype=np.float32)) for shape in shapes]
    alone = [upscaler(picture, scale=2) for picture in pictures]
    sizes = counted(upscaler, monkeypatch)
    made = together(upscaler, pictures, scale=2)
    assert sorted(sizes) == [1, 1, 2, 2]
    for one, three in zip(alone, made, strict=True):
        assert np.abs(one.picture.rgb - three.picture.rgb).max() < 2e-5


def test_one_that_fails_holds_nobody_up() -> None:
    lockstep, answers = Lockstep(3), {}

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def member(number: int) -> None:
        call = lockstep.caller(number)
        try:
            for step in range(3):
                if number == 1 and step == 1:
                    raise RuntimeError("one")
                answers[number] = call(double, torch.full((1, 2), float(number)))
                time.sleep(0.01 * number)
        except RuntimeError:
            answers[number] = None
        finally:
            lockstep.leave()

    threads = [threading.Thread(target=member, args=(n,), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert answers[1] is None
    assert [answers[0].tolist(), answers[2].tolist()] == [[[0.0, 0.0]], [[4.0, 4.0]]]


def test_out_of_memory_in_a_batch_makes_it_one_by_one() -> None:
    lockstep, answers, sizes = Lockstep(2), {}, []

    def small_only(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.shape[0])
        if x.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x + 1

    def member(number: int) -> None:
        answers[number] = lockstep.caller(number)(small_only, torch.full((1,), float(number)))
        lockstep.leave()

    threads = [threading.Thread(target=member, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sizes == [2, 1, 1]
    assert [answers[n].item() for n in range(2)] == [1.0, 2.0]


# --- object stores ------------------------------------------------------------------------------


def test_a_url_does_what_a_path_does() -> None:
    pytest.importorskip("fsspec")
    folder = Remote("memory://bucket/in")
    (folder / "b/ü x.png").write_bytes(b"12")
    (folder / "a.jpg").write_bytes(b"1")
    (folder / "notes.txt").write_bytes(b"")
    found = {inside: url for url, inside in remote.find(str(folder))}
    assert sorted(found) == ["a.jpg", "b/ü x.png"]
    picture = remote.place(found["b/ü x.png"])
    assert picture.exists() and picture.read_bytes() == b"12" and picture.stat().st_size == 2
    assert (picture.name, picture.suffix, str(picture.parent)[-2:]) == ("ü x.png", ".png", "/b")
    assert not (folder / "none.png").exists()
    with pytest.raises(InputError, match="no such object"):
        (folder / "none.png").read_bytes()
    with pytest.raises(InputError, match="no pictures"):
        list(remote.find("memory://bucket/empty"))


def test_a_store_that_refuses_is_no_fault_of_ours(monkeypatch) -> None:
    """Its client's exceptions are of no known kind."""
    memory = pytest.importorskip("fsspec").filesystem("memory")

    def refuse(path: str, data: bytes) -> None:
        raise Exception("403 Forbidden")

    monkeypatch.setattr(memory, "pipe_file", refuse)
    with pytest.raises(OutputError, match=r"memory://a/b\.png: cannot be written: 403 Forbidden"):
        Remote("memory://a/b.png").write_bytes(b"1")


def test_what_is_no_url() -> None:
    assert remote.is_url("s3://b/c.png") and remote.is_url("memory://x")
    assert not any(map(remote.is_url, ("a/b.png", "C:\\x", "C://x", "a:b", "")))
    with pytest.raises(UsageError, match="nosuch"):
        pytest.importorskip("fsspec")
        Remote("nosuch://a/b").exists()
