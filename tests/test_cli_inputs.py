"""Inputs by whatever name they are reached: never replaced, found, or named where passed over."""

from __future__ import annotations

import codecs
import io
import json
import os
import threading
from pathlib import Path

import pytest
from cli_fake import FakeUpscaler
from test_cli import picture, run

from upscale.batch.files import Files
from upscale.batch.job import Job, Ticket
from upscale.batch.ledger import Ledger
from upscale.batch.names import Item, Naming, Source, plan, without_results
from upscale.batch.reading import look
from upscale.cli.upscale.inputs import find
from upscale.cli.upscale.watch import lines
from upscale.errors import UsageError


def aliases(path: Path) -> dict[str, Path]:
    """Other names of a file."""
    folder = path.parent
    (folder / "link.png").symlink_to(path)
    os.link(path, folder / "hard.png")
    (folder / "there").symlink_to(folder)
    (folder / "chain.png").symlink_to(folder / "link.png")
    return {
        "link": folder / "link.png", "hard link": folder / "hard.png",
        "through a folder": folder / "there" / path.name, "link to a link": folder / "chain.png",
        "another spelling": folder / "." / ".." / folder.name / path.name,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["link", "hard link", "through a folder", "link to a link",
                                 "another spelling"])  # fmt: skip
def test_an_input_is_not_replaced_by_another_name(way, here, calls):
    source = picture(here / "in.png")
    before = source.read_bytes()
    alias = aliases(source)[way]
    done = run(source, "-o", alias, "--overwrite", code=2)
    assert "inputs are never replaced" in done.told
    assert source.read_bytes() == alias.read_bytes() == before
    run(alias, "-o", source, "--overwrite", code=2)  # and the other way round
    assert source.read_bytes() == before


def test_results_in_a_folder_go_round_links_to_inputs(here, calls):
    one, two = picture(here / "a" / "one.png"), picture(here / "a" / "two.png")
    before = two.read_bytes()
    (here / "out").mkdir()
    (here / "out" / "one_x4.png").symlink_to(two)
    run("a", "-o", "out/", "--overwrite")
    assert two.read_bytes() == before
    assert (here / "out" / "one_x4.png").is_symlink()
    assert (here / "out" / "one_png_x4.png").exists()
    assert one.exists()


def test_a_link_that_appears_later_is_seen_before_the_work(tmp_path):
    source = picture(tmp_path / "in.png")
    (item,) = plan([Source(str(source), Path("in.png"))], None, Naming("_x4"), many=True)
    item.outputs[0].symlink_to(source)
    with pytest.raises(UsageError, match="never replaced"):
        look(Job(FakeUpscaler, files=Files(overwrite=True)), Ticket(item))


def test_one_folder_by_two_names_is_one(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    sources = [Source(str(tmp_path / folder / "in.png"), Path("in.png")) for folder in "ab"]
    items: list[Item] = plan(sources, None, Naming("_x4"), many=True)
    assert items[0].outputs[0].name != items[1].outputs[0].name


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_with_a_byte_order_mark(encoding, here, calls):
    picture(here / "маяк.png")
    picture(here / "b.png")
    (here / "list.txt").write_bytes("маяк.png\r\nb.png\r\n".encode(encoding))
    run("--from-file", "list.txt", "-o", "out/")
    assert sorted(p.name for p in (here / "out").iterdir()) == ["b_x4.png", "маяк_x4.png"]
    stream = io.BytesIO(codecs.BOM_UTF8 + b"a.png\nb.png\n")
    assert list(lines(stream, b"\n")) == [b"a.png", b"b.png"]


LONG = "é" + "x" * 247


@pytest.mark.parametrize("again", [["--skip-existing"], ["--resume", "done.jsonl"]])
@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "a.jpg", "a.bmp"],
        ["a.png", "a.jpg", "a_jpg.png"],
        ["bb.png", "Bb.png", "BB.png", "bB.png"],
        [LONG + ".png", LONG + ".bmp"],
    ],
    ids=["kinds", "taken", "cases", "long"],
)
def test_a_folder_enlarged_in_place_stays_as_it_is(names, again, here, calls):
    for name in names:
        picture(here / "f" / name)
    if len(os.listdir("f")) < len(names):
        pytest.skip("a file system that is blind to case")
    args = ["f", "--format", "png", *again]
    assert len(run(*args).stdout.splitlines()) == len(names)
    made = sorted(os.listdir("f"))
    assert len(made) == 2 * len(names)
    for pattern in ([], ["f/*"]):  # which leaves earlier results out as the folder does
        assert run(*pattern, *args).stdout == ""
        assert sorted(os.listdir("f")) == made


def test_only_what_is_named_like_a_result_of_a_neighbour_is_left_out():
    kept = ["f/a.jpg", "f/b_x4.png", "f/a_png_x4.png", "f/a_2_x4.png", "f/a~000000_x4.png"]
    left = ["f/a_x4.png", "f/a_jpg_x2.5_s1.png", "f/a_jpg_3_max9_std.png", "f/a_x4_x4.png"]
    assert without_results([*left, *kept, "g/a_jpg_x4.png"]) == [*kept, "g/a_jpg_x4.png"]


def answers(*lines: str, args: tuple[str, ...] = ()) -> list[dict]:
    """What --watch says to each line, as strict JSON."""

    def refused(text: str):
        raise AssertionError(text)

    said = run("upscale", "--from-file", "-", "--watch", *args, code=None, input="\n".join(lines))
    assert "fault of diffsr" not in said.stdout
    return [json.loads(line, parse_constant=refused) for line in said.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"input": "a.png", "output": "-", "id": 7}', "standard output"),
        ('{"input": "a.png", "output": "/dev/stdout", "id": 7}', "standard output"),
        ('{"input": "a.png", "output": 1, "id": 7}', "both are texts"),
        ('{"input": "a.png", "outptu": "b.png", "id": 7}', "both are texts"),
        ('{"input": "a.png", "output": "w/\\u0000.png", "id": 7}', "no name of a file"),
        ('{"input": "a.png", "output": "\\ud800.png", "id": 7}', "no name of a file"),
        ('{"input": "a.png", "output": "text/deep/x.png", "id": 7}', "text: is a file"),
        ('{"input": "\\ud800.png", "id": 7}', "no name of a file"),
        ('{"input": "none.png", "id": 7}', "no such file"),
        ('{"input": "", "id": 7}', "needs an"),
        ('{"id": 7}', "needs an"),
        ('{"input": "a.png", "id": [NaN]}', "cannot be repeated"),
        ('{"input": "a.png", "id": 1e999}', "cannot be repeated"),
        ("{", "nor a JSON object"),
    ],
)
def test_a_failure_answers_with_id_and_path(line, error, here, calls):
    picture(here / "a.png")
    (here / "text").write_bytes(b"x")
    (answer,) = answers(line, args=("--resume", "done.jsonl"))
    try:
        asked = json.loads(line)
    except ValueError:
        asked = {}
    assert (answer["status"], answer["input"]) == ("failed", asked.get("input") or line)
    assert error in answer["error"]
    assert answer.get("id") == (7 if asked.get("id") == 7 else None)
    ledger = Ledger("done.jsonl", "")
    assert ledger.failed(answer["input"]) and not ledger.torn
    ledger.close()
    assert sorted(os.listdir()) == ["a.png", "done.jsonl", "text"]


def filled(path: Path, data: bytes) -> Path:
    """A pipe with a name that gives these bytes to who opens it first."""
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
    return path


@pytest.mark.parametrize("more", [[], ["--resume", "done.jsonl"], ["--dry-run"]])
def test_a_pipe_is_read_once(more, here, calls):
    data = picture(here / "a.jpg").read_bytes()
    assert run(filled(here / "p", data), "-o", "x.png", *more).stdout == "x.png\n"
    listed = filled(here / "q", data)
    (here / "list").write_bytes(b"q\na.jpg\n")
    out = run("--from-file", "list", "-o", "out/", *more).stdout.splitlines()
    assert out == ["out/q_x4.jpg", "out/a_x4.jpg"]
    assert listed.is_fifo()
    wrong = run(filled(here / "r", b"x"), "-o", "y.png", *more, code=3).told
    assert str(here / "r") in wrong and "standard input" not in wrong
    assert "nothing came out" in run(filled(here / "s", b""), "-o", "y.png", code=3).told
    assert "a device" in run("/dev/zero", "-o", "y.png", code=3).told


def test_a_dry_run_waits_for_nobody_who_may_not_come(here, calls, monkeypatch):
    monkeypatch.setattr("upscale.cli.upscale.inputs._PATIENCE", 0.05)
    os.mkfifo("p")
    told = run("p", "-o", "x.png", "--dry-run", code=3).told
    assert "p: nobody writes into this pipe, and a dry run does not wait" in told
    reader, writer = os.open("p", os.O_RDONLY | os.O_NONBLOCK), os.open("p", os.O_WRONLY)
    data = picture(here / "a.png").read_bytes()
    late = threading.Timer(0.2, lambda: (os.write(writer, data), os.close(writer)))
    late.start()  # who is there, and slow, is waited for
    assert run("p", "-o", "x.png", "--dry-run").stdout == "x.png\n"
    os.close(reader)


def test_a_result_goes_into_a_pipe_or_a_device(here, calls, monkeypatch):
    picture(here / "a.png")
    monkeypatch.setattr(os, "access", lambda path, mode: not os.path.isdir(path))  # as of /dev
    assert run("a.png", "-o", "/dev/null", "--format", "png").stdout == "/dev/null\n"
    os.mkfifo("p")
    assert "exists" not in run("a.png", "-o", "p", "--format", "png", "--dry-run").stderr
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(Path("p").read_bytes()), daemon=True)
    reader.start()
    run("a.png", "-o", "p", "--format", "png", "--skip-existing")
    reader.join(5)
    assert read[0].startswith(b"\x89PNG")
    refused = run("a.png", "-o", "p", "--format", "png", "--resume", "done.jsonl", code=2)
    assert "no pipe or device" in refused.told


def test_standard_output_by_another_name_holds_the_picture_alone(here, calls):
    picture(here / "a.png")
    whole = run("a.png", "-o", "-").stdout_bytes
    assert whole.endswith(b"IEND\xaeB`\x82")
    assert run("a.png", "-o", "/dev/stdout").stdout_bytes == whole
    assert "--json needs -o FILE" in run("a.png", "-o", "/dev/fd/1", "--json", code=2).told


def test_pipes_met_in_a_folder_are_passed_over(here, calls):
    picture(here / "f" / "a.png")
    os.mkfifo(here / "f" / "p.png")
    assert run("f", "-o", "out/").stdout == "out/a_x4.png\n"


def test_a_pipe_named_to_watch(here, calls):
    filled(here / "p", picture(here / "f" / "a.jpg").read_bytes())
    piped, folder, device = answers("p", "f", "/dev/zero")
    assert (piped["status"], piped["output"]) == ("ok", "p_x4.jpg")
    assert "a folder" in folder["error"] and "a device" in device["error"]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_lines_of_a_list_end_as_on_any_system(ending, here, calls):
    for name in ("a.png", "b c.png"):
        picture(here / name)
    (here / "list.txt").write_bytes(f"a.png{ending}b c.png{ending}".encode())
    out = run("--from-file", "list.txt", "-o", "out/").stdout
    assert out.splitlines() == ["out/a_x4.png", "out/b c_x4.png"]


def test_a_list_of_utf16_that_is_cut_short(here, calls):
    (here / "list.txt").write_bytes(codecs.BOM_UTF16_LE + "a.png\n".encode("utf-16-le")[:-1])
    assert "list.txt: begins as UTF-16" in run("--from-file", "list.txt", code=3).told


def test_a_line_ends_at_lf_alone(here, calls):
    strange = ["a\rb.png", "c\x85d.png", "e\x0bf.png"]
    for name in strange:
        picture(here / name)
    (here / "list.txt").write_bytes(os.fsencode("\r\n".join(strange)))
    assert run("--from-file", "list.txt", "-o", "out/").stderr.count("->") == 3
    assert len(os.listdir("out")) == 3


def test_a_pattern_of_folders(here, calls):
    for name in ("alb/one/a.png", "alb/two/deep/b.png", "alb/c.png", "alb/c_x4.png"):
        picture(here / name)
    (here / "alb" / "none").mkdir()
    made = run("alb/*", "-o", "alb/out/").stdout.split()
    assert made == ["alb/out/c_x4.png", "alb/out/a_x4.png", "alb/out/deep/b_x4.png"]
    assert run("alb/*", "-o", "alb/out/", "--skip-existing").stdout == ""  # nor what is in there
    assert [path for path, _ in find(["alb/n*"]).failures] == ["alb/n*"]


def test_the_folder_of_the_results_is_left_out_by_any_name(here, calls):
    picture(here / "in" / "a.png")
    (here / "in" / "large").mkdir()
    (here / "link").symlink_to(here / "in" / "large")
    (here / "there").symlink_to(here / "in")
    assert run("in", "-o", "link").stdout == "link/a_x4.png\n"
    for again in (("in", "-o", "link"), ("there", "-o", "in/large"), ("in/*", "-o", "link")):
        assert run(*again, "--skip-existing").stdout == ""
    assert os.listdir("in/large") == ["a_x4.png"]


def test_what_is_passed_over_in_a_folder_is_named(here, calls):
    picture(here / "in" / "a.png")
    others = ["b.mpo", "c.JP2", "d.jxl", "e.psd", "f.cr2", "g.mp4", "h.pdf", "i.DNG"]
    for name in [*others, "notes.txt", ".hidden.mpo"]:
        (here / "in" / name).write_bytes(b"x")
    told = run("in", "in", "in/*", "-o", "out/").stderr  # once, by however many names
    assert told.count("8 files passed over") == told.count("passed over") == 1
    assert all(name in told for name in others[:5])
    assert "and 3 more" in told
    assert "notes.txt" not in told
    assert len(find([str(here / "in" / "*")]).passed_over) == 8


def test_a_link_to_a_folder_is_told(here, calls):
    picture(here / "in" / "a.png")
    picture(here / "other" / "b.png")
    (here / "in" / "link").symlink_to(here / "other")
    done = run("in", "in", "-o", "out/")
    assert done.stdout == "out/a_x4.png\n"
    assert done.stderr.count("1 linked folder passed over") == 1
    assert "named: in/link\n" in done.stderr
    done = run("in", "in/link", "-o", "both/")
    assert done.stdout == "both/a_x4.png\nboth/b_x4.png\n"
    assert "passed over" not in done.stderr


def test_dates_are_kept_if_wanted(here, calls):
    source = picture(here / "a.png")
    os.utime(source, ns=(10**18, 10**18 + 7))
    run("a.png", "-o", "new.png")
    assert Path("new.png").stat().st_mtime_ns > 10**18 + 7
    run("a.png", "-o", "old.png", "--preserve-times", "--samples", "2")
    for name in ("old_s1.png", "old_s2.png"):
        assert Path(name).stat().st_mtime_ns == 10**18 + 7
    told = run("-", "-o", "piped.png", "--preserve-times", input=source.read_bytes()).stderr
    assert "no dates" in told


def test_a_second_picture_on_standard_input_is_told(here, calls):
    data = picture(here / "a.jpg").read_bytes()
    told = run("-", "-o", "out.jpg", input=data + data).stderr
    assert "another picture (JPEG) follows" in told


def test_links_that_lead_in_a_circle(here, calls):
    picture(here / "in" / "c.png")
    for name, to in (("a.png", "b.png"), ("b.png", "a.png")):
        (here / "in" / name).symlink_to(to)
    assert "in/a.png: a link that leads in a circle" in run("in/a.png", code=3).told
    done = run("in", "-o", "out/", code=1)
    assert "in/b.png: is a link that leads in a circle; give" in done.stderr
    assert "Errno" not in done.stderr


def test_settings_may_be_quiet(here, calls, monkeypatch):
    picture(here / "a.png")
    monkeypatch.setenv("DIFFSR_CONFIG", str(here / "quiet.toml"))
    assert "quiet.toml: the settings cannot be read: No such" in run("a.png", code=2).told
    (here / "quiet.toml").write_text("quiet = true\nnothing = 1\n")
    assert run("a.png").stderr == ""
    monkeypatch.setenv("DIFFSR_QUIET", "0")
    assert "nothing is not read" in run("a.png", "--overwrite").stderr
