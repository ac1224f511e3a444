"""A file appears at once and complete, or nothing does; nothing is overwritten unasked."""

import errno
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from upscale import atomic
from upscale.errors import DiskFull, OutputError
from upscale.image.decode import read
from upscale.image.encode import write
from upscale.image.picture import Picture

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "TGA", "AVIF", "GIF"]


def picture(height: int = 9, width: int = 14, **fields: object) -> Picture:
    rgb = np.random.default_rng(0).random((height, width, 3), np.float32)
    if fields.get("grey"):
        rgb = np.repeat(rgb[..., :1], 3, 2)
    return Picture(rgb, **fields)


def failing(error: BaseException):
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["фото 1.png", "-x.png", "a#b.png", "x" * 251 + ".png", "new/folder/a.png"]
)
def test_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(picture(), name)
    assert read(Path(name)).size == (9, 14)
    assert len(list(Path(name).parent.iterdir())) == 1


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write(picture(), tmp_path / "a.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"a\.png: exists.*--overwrite"):
        write(picture(), path)
    assert path.read_bytes() == b"precious"
    write(picture(), path, overwrite=True)
    assert read(path).size == (9, 14)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch, links):
    path = tmp_path / "a.png"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"precious"))
    if not links:
        monkeypatch.setattr(os, "link", failing(OSError(errno.EPERM, "no links here")))
    with pytest.raises(OutputError, match="exists"):
        write(picture(), path)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_of_many_writers_one_wins(tmp_path):
    path, outcomes = tmp_path / "a.png", []

    def work() -> None:
        try:
            outcomes.append(write(picture(), path))
        except OutputError:
            outcomes.append("exists")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["[]"] + ["exists"] * 5
    assert read(path).size == (9, 14)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), DiskFull),
        (OSError(errno.EIO, "Input/output error"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(1), SystemExit),
    ],
)
def test_a_failure_leaves_nothing_behind(raised, expected, existing, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    if existing:
        path.write_bytes(b"precious")
    monkeypatch.setattr(os, "fsync", failing(raised))
    with pytest.raises(expected) as caught:
        write(picture(), path, overwrite=True)
    if isinstance(raised, OSError):
        assert str(path) in str(caught.value)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"] * existing


def test_without_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", failing(OSError(errno.EPERM, "no links here")))
    write(picture(), tmp_path / "a.png")
    assert read(tmp_path / "a.png").size == (9, 14)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.png", tmp_path / "link.png"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with pytest.raises(OutputError, match="exists"):
        write(picture(), link)
    write(picture(), link, overwrite=True)
    assert link.is_symlink()
    assert read(real).size == (9, 14)


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file: the folder cannot be made, because a file is in"):
        write(picture(), tmp_path / "file" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError, match="exists"):
        write(picture(), tmp_path / "folder.png")
    with pytest.raises(OutputError, match="cannot be written"):
        write(picture(), tmp_path / "folder.png", overwrite=True)
    with pytest.raises(OutputError, match=r"cannot be written.*name too long"):
        write(picture(), tmp_path / ("x" * 300 + ".png"))
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(atomic, "open", failing(denied), raising=False)
    with pytest.raises(OutputError, match=r"Permission denied.*check the name"):
        write(picture(), tmp_path / "b.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
def test_a_full_device():
    with pytest.raises(DiskFull, match="/dev/full: the disk is full"):
        write(picture(), "/dev/full", format="PNG")
    with open("/dev/full", "wb", buffering=0) as stream, pytest.raises(DiskFull):
        write(picture(), stream, format="TIFF")
    write(picture(), os.devnull, format="PNG")
    assert not stat.S_ISREG(os.stat(os.devnull).st_mode)


def test_the_input_is_not_touched(tmp_path):
    path = tmp_path / "a.jpg"
    write(picture(), path)
    os.utime(path, ns=(10**18, 10**18))
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    p = read(path)
    write(p, tmp_path / "b.jpg")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


# ---- streams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_to_a_pipe(format):
    source, sink = os.pipe()
    with open(sink, "wb", buffering=0) as stream:
        write(picture(), stream, format=format)
        assert not stream.closed
    with open(source, "rb") as file:
        assert read(file).format == format


def test_a_closed_pipe_is_the_callers_business():
    source, sink = os.pipe()
    os.close(source)
    with open(sink, "wb", buffering=0) as stream, pytest.raises(BrokenPipeError):
        write(picture(), stream, format="PNG")


def test_a_file_made_by_name_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.bin"
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    with pytest.raises(ValueError), atomic.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    with (
        pytest.raises(OutputError, match="exists"),
        atomic.replacing(path, overwrite=False) as part,
    ):
        part.write_bytes(b"other")
    assert path.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1
    lost = tmp_path / "none" / "a.bin"
    with pytest.raises(OutputError, match="cannot be written"), atomic.replacing(lost) as new:
        new.write_bytes(b"")
    (tmp_path / ".diffsr-0123.part").write_bytes(b"of a process that was killed")
    atomic.remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
