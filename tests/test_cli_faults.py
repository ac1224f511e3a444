"""`diffsr` as a process: exit codes, broken files, signals, a full disk, pipes."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_fake import FakeUpscaler
from PIL import Image
from test_cli import picture

import upscale.cli.main as entry
import upscale.cli.upscale.command as command_module
from upscale import signals
from upscale.batch.ledger import Ledger
from upscale.errors import DiskFull
from upscale.image import encode

ROOT = Path(__file__).parents[1]
FAKE = [sys.executable, str(Path(__file__).with_name("cli_fake.py"))]
REAL = [sys.executable, "-m", "upscale"]
catch_signals = signals.catch


def diffsr(env, cwd, *args, program=FAKE, **options):
    return subprocess.run(
        [*program, *map(str, args)], env=env, cwd=cwd, capture_output=True, timeout=60, **options
    )


def started(env, cwd, *args, until):
    """A running process, once `until()` holds."""
    process = subprocess.Popen(
        [*FAKE, *args], env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 20
    while not until() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return process


def test_help_is_quick_and_without_torch(env, tmp_path):
    code = (
        "import sys\n"
        "from upscale.cli.main import main\n"
        "try: main([sys.argv[1]])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'numpy', 'rich', 'PIL'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    for flag in ("--help", "--version"):
        before = os.times()  # the processor's time: other work may be going on
        made = diffsr(env, tmp_path, flag, program=[sys.executable, "-c", code])
        after = os.times()
        assert made.stderr.decode().strip() == "0 []"
        user, system = (getattr(after, n) - getattr(before, n) for n in
                        ("children_user", "children_system"))  # fmt: skip
        assert user + system < 0.4


def test_one_bad_file_among_ten(env, tmp_path):
    for number in range(9):
        picture(tmp_path / f"in/{number}.png")
    (tmp_path / "in/broken.png").write_bytes(b"<html>not found</html>")
    made = diffsr(env, tmp_path, "in", "-o", "out")
    assert made.returncode == 1
    assert len(made.stdout.splitlines()) == len(list((tmp_path / "out").iterdir())) == 9
    text = made.stderr.decode()
    assert "1 of 10 pictures failed:" in text
    assert "HTML" in text.rpartition("failed:")[2]
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["none.png"], 3, "no such file"),
        (["none.png", "nor.png"], 3, "2 of 2"),
        (["none.png", "ok.png"], 1, "1 of 2"),
        (["empty.png"], 3, "empty"),
        (["oom.png"], 4, "tiles of 128"),
        (["oom.png", "ok.png"], 1, "tiles of 128"),
        (["fault.png"], 1, "diffsr doctor"),
        (["ok.png", "--scale", "99"], 2, "1<=x<=16"),
        (["ok.png", "-o", "ok.png/sub/"], 1, "cannot be made"),
        (["folder"], 3, "no pictures"),
        ([], 2, "Usage"),
    ],
)
def test_exit_codes(inside, tmp_path, args, code, told):
    picture(tmp_path / "ok.png")
    picture(tmp_path / "oom.png", (13, 9))
    picture(tmp_path / "fault.png", (17, 9))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    ended, text = inside(*args)
    assert (ended, told in text, "Traceback" in text) == (code, True, False), text


def test_debug_shows_the_traceback(env, tmp_path):
    picture(tmp_path / "fault.png", (17, 9))
    assert b"Traceback" in diffsr(env, tmp_path, "fault.png", "--debug").stderr
    assert b"Traceback" in diffsr({**env, "DIFFSR_DEBUG": "1"}, tmp_path, "fault.png").stderr
    made = diffsr(env, tmp_path, "fault.png", "--uncertainty", "--debug")
    assert made.returncode == 2
    assert b"UsageError: --uncertainty" in made.stderr


def test_an_interruption_waits_for_the_end_of_an_import(tmp_path, monkeypatch):
    """torch, interrupted while it is imported, aborts the process."""
    text = "import signal, time\nsignal.raise_signal(signal.SIGTERM)\ntime.sleep(0.12)\nend = 1\n"
    (tmp_path / "slowly_imported.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        signals.catch()
        import slowly_imported

        assert slowly_imported.end
        begin = time.monotonic()
        with pytest.raises(signals.Terminated):
            time.sleep(5)
        assert time.monotonic() - begin < 3  # it wakes who sleeps
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_end_the_work_each_by_its_code(inside, tmp_path, monkeypatch):
    """As a shell counts: 128 and the signal. SIGHUP comes where a terminal is closed."""
    picture(tmp_path / "in.png")
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        monkeypatch.setattr(FakeUpscaler, "plan", lambda *args, n=number: signal.raise_signal(n))
        signal.signal(number, signal.default_int_handler)
        try:
            catch_signals()
            assert inside("in.png")[0] == 128 + number
            again = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
            assert signal.getsignal(number) == again
        finally:
            for changed, handler in before.items():
                signal.signal(changed, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("slow", ["FAKE_SLEEP", "FAKE_SLOW_WRITE"])
def test_interrupted_leaves_nothing(env, tmp_path, number, slow):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    ready = tmp_path.with_name(tmp_path.name + "-ready")

    def busy() -> bool:
        if slow == "FAKE_SLOW_WRITE":
            return any(tmp_path.glob(".diffsr*"))
        return ready.exists()

    if slow == "FAKE_SLEEP":  # the output folder is made just before the work
        process = started({**env, slow: "5"}, tmp_path, "a.png", "b.png", "-o", str(ready),
                          until=busy)  # fmt: skip
        time.sleep(0.3)
    else:
        process = started({**env, slow: "1"}, tmp_path, "a.png", "b.png", until=busy)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else 143), err
    assert out == b""
    assert b"Interrupted: 0 of 2 pictures are done, 2 left." in err
    assert b"Traceback" not in err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert not ready.exists() or not list(ready.iterdir())


@pytest.mark.parametrize("more", [[], ["--json"], ["--resume", "l.jsonl"], ["--samples", "2"]])
def test_interrupted_names_every_file_that_is_written(inside, tmp_path, monkeypatch, capsys, more):
    """The last of three pictures, or its last sample, is interrupted once all before is written."""
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    wanted = 5 if "--samples" in more else 2

    class Interrupted(FakeUpscaler):
        def run(self, *args, **options):
            while len(self.log) == wanted:
                if len(list(tmp_path.glob("*_x4*.png"))) == wanted:
                    raise signals.Terminated
            return super().run(*args, **options)

    monkeypatch.setattr(command_module, "make_upscaler", lambda *args: Interrupted())
    with pytest.raises(SystemExit) as end:
        entry.main(["a.png", "b.png", "c.png", *more])
    (out, err), named = capsys.readouterr(), []
    for line in out.splitlines():
        named += json.loads(line)["outputs"] if "--json" in more else [line]
    assert end.value.code == 143
    assert sorted(named) == sorted(path.name for path in tmp_path.glob("*_x4*.png"))
    assert "Interrupted: 2 of 3 pictures are done, 1 left. The same command " in err
    assert ("--skip-existing" in err) is ("--resume" not in more)


@pytest.mark.parametrize("more", [[], ["--resume", "l.jsonl"]])
def test_a_full_disk_ends_all_and_every_file_is_named(inside, tmp_path, monkeypatch, capsys, more):
    """The first of three pictures fails once the second is written."""
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    write, append = encode.write, Ledger.append

    def full(picture, target, **options):
        if target.name == "a_x4.png":
            while not (tmp_path / "b_x4.png").exists():
                time.sleep(0.001)
            raise DiskFull("the disk is full")
        return write(picture, target, **options)

    def torn(ledger, line):
        if line["status"] == "failed":
            raise DiskFull("no space left for the ledger")
        append(ledger, line)

    monkeypatch.setattr(encode, "write", full)
    monkeypatch.setattr(Ledger, "append", torn)
    monkeypatch.setattr(command_module, "make_upscaler", lambda *args: FakeUpscaler())
    with pytest.raises(SystemExit) as end:
        entry.main(["a.png", "b.png", "c.png", *more])
    out, err = capsys.readouterr()
    assert end.value.code == 4
    assert sorted(out.split()) == sorted(path.name for path in tmp_path.glob("*_x4.png"))
    assert ("for the ledger" in err) is bool(more)


def test_killed_leaves_no_half_written_picture(env, tmp_path):
    picture(tmp_path / "a.png")
    process = started({**env, "FAKE_SLOW_WRITE": "9"}, tmp_path, "a.png",
                      until=lambda: any(tmp_path.glob(".diffsr*")))  # fmt: skip
    process.kill()
    process.communicate()
    assert not (tmp_path / "a_x4.png").exists()
    assert diffsr(env, tmp_path, "a.png").returncode == 0
    with Image.open(tmp_path / "a_x4.png") as image:
        image.load()


def test_full_disk(env, tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    made = diffsr({**env, "FAKE_FULL": "1"}, tmp_path, "a.png", "b.png")
    assert made.returncode == 4
    assert b"disk is full" in made.stderr
    assert b"1 more picture was not started" in made.stderr
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_a_full_disk_under_the_messages(inside, tmp_path, monkeypatch):
    picture(tmp_path / "a.png")

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    assert inside("a.png")[0] == 4


def test_a_picture_through_a_pipe(env, tmp_path):
    data = picture(tmp_path / "a.png").read_bytes()
    made = diffsr(env, tmp_path, "-", "-o", "-", input=data)
    assert made.returncode == 0
    assert made.stdout.startswith(b"\x89PNG")
    assert diffsr(env, tmp_path, "-", input=b"nonsense").returncode == 3


def test_a_reader_that_goes_away_is_no_fault(env, tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    process = started({**env, "FAKE_SLEEP": "0.05"}, tmp_path, ".", "-o", "out",
                      until=lambda: (tmp_path / "out").exists())  # fmt: skip
    process.stdout.close()
    err = process.stderr.read()
    process.wait(20)
    process.stderr.close()
    assert b"Traceback" not in err
    assert b"Broken" not in err


def test_closed_streams_are_no_fault(inside, tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    for name in ("stdin", "stdout", "__stdout__"):
        monkeypatch.setattr(sys, name, None)
    code, told = inside("a.png", "b.png")
    assert (code, "b_x4.png" in told, "Error" in told) == (0, True, False), told
    assert inside("a.png", "-o", "-") == (2, "Error: a picture needs standard output, which is "
                                             "closed; use -o FILE\n")  # fmt: skip
    assert "standard input, which is closed" in inside("-")[1]
    assert "standard output, which is closed" in inside("generate", "-o", "-")[1]
    sys.stdout.close()


def on_a_terminal(command: list[str], env, cwd) -> tuple[int, str]:
    """Exit code and what a terminal shows, stdout included."""
    parent, child = pty.openpty()
    process = subprocess.Popen(command, env=env, cwd=cwd, stdin=child, stdout=child, stderr=child)
    os.close(child)
    shown = b""
    while select.select([parent], [], [], 20)[0]:
        try:
            part = os.read(parent, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(parent)
    return process.wait(20), shown.decode()


def test_bar_on_a_terminal_and_its_colours(env, tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    base = {**env, "TERM": "xterm-256color", "FAKE_SLEEP": "0.05", "COLUMNS": "100"}
    base.pop("NO_COLOR", None)
    code, shown = on_a_terminal([*FAKE, "a.png", "b.png"], base, tmp_path)
    assert code == 0
    assert "pictures" in shown
    assert "a_x4.png" in shown
    assert "\x1b[3" in shown or "\x1b[38;" in shown
    plain = {**base, "NO_COLOR": "1"}
    code, shown = on_a_terminal([*FAKE, "a.png", "b.png", "--overwrite"], plain, tmp_path)
    assert "\x1b[3" not in shown
    code, shown = on_a_terminal([*FAKE, "a.png", "--overwrite"], {**base, "TERM": "dumb"}, tmp_path)
    assert "\x1b[" not in shown
    assert "6x5 to 24x20" in shown


def test_no_picture_goes_to_a_terminal(env, tmp_path):
    picture(tmp_path / "a.png")
    code, shown = on_a_terminal([*FAKE, "a.png", "-o", "-"], env, tmp_path)
    assert code == 2
    assert "not written to a terminal" in shown
    code, shown = on_a_terminal([*FAKE, "-"], env, tmp_path)
    assert code == 2
    assert "which is the terminal" in shown


def test_the_real_thing(env, tmp_path):
    """The one test here that pays for torch: bicubic, from end to end."""
    picture(tmp_path / "a.jpg", (31, 22))
    picture(tmp_path / "b.png", (7, 3))
    made = diffsr(env, tmp_path, "a.jpg", "b.png", "--method", "bicubic", "--scale", "3.7",
                  "--json", program=REAL)  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    first, second = map(json.loads, made.stdout.splitlines())
    assert (first["output"], first["size_out"]) == ("a_x3.7.jpg", [81, 115])
    assert (second["output"], second["method"]) == ("b_x3.7.png", "bicubic")
    with Image.open(tmp_path / "a_x3.7.jpg") as image:
        assert image.size == (115, 81)


def test_weights_that_do_not_exist(inside, tmp_path):
    picture(tmp_path / "a.png")
    code, told = inside("a.png", "--weights", "sr3-foto", fake=False)
    assert code == 5
    assert "no weights named sr3-foto" in told


def test_names_of_files_are_only_shown(capsys):
    """A terminal takes what follows an escape for a command."""
    from upscale.cli.progress import Reporter, printable

    wild = "a\x1b]0;title\x07b\x9bc\u202ed\udcff\x7f"
    Reporter().note(f"skipped: {wild}.png")
    Reporter().error(wild)
    told = capsys.readouterr().err
    assert not set(told) & set("\x1b\x07\x9b\u202e\x7f")
    assert "a\\x1b]0;title\\x07b\\x9bc\\u202ed\\udcff\\x7f.png" in told
    assert printable("Grüße,\t東京\n") == "Grüße,\t東京\n"


@pytest.mark.parametrize(("columns", "times"), [(20, False), (60, True)])
def test_a_narrow_terminal_shows_how_far_it_is(monkeypatch, capsys, columns, times):
    """The names took all of the room."""
    from upscale.cli import progress

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    with progress.Reporter(124) as reporter:
        reporter.picture("a/folder/and/a/picture.png", 2, 5)
        console = reporter.live.console
        with console.capture() as shown:
            console.print(reporter.live.get_renderable())
    lines = [line.rstrip() for line in shown.get().splitlines() if line.strip()]
    assert len(lines) == 2 and "0/124" in lines[0] and "2/5" in lines[1]
    assert ("0:00:0" in lines[0]) == times


@pytest.mark.parametrize("own", ["", "ACTIVE"])
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(own, monkeypatch, capsys):
    monkeypatch.setenv("OMP_WAIT_POLICY", own)
    if not own:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        entry.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == (own or "PASSIVE")
