"""`diffsr upscale`: every option, names of results, what goes to which stream."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from upscale.cli import environment
from upscale.cli.help import Command
from upscale.cli.main import COMMANDS, cli
from upscale.cli.options import QUIET, Finite, option
from upscale.errors import DiffsrError, InputError, OutputError, UsageError
from upscale.weights import registry

ROOT = Path(__file__).parents[1]


def picture(path: Path, size: tuple[int, int] = (6, 5), **options) -> Path:
    """A small picture of (width, height); the pixels depend on the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def run(*args: str, code: int | None = 0, **options):
    """`diffsr args` in this process; its own errors are told from their exit codes."""
    result = CliRunner().invoke(cli, [str(a) for a in args], standalone_mode=False, **options)
    error = result.exception
    if isinstance(error, (DiffsrError, click.ClickException)):
        found = error.exit_code
        result.told = result.stderr + str(getattr(error, "message", error))
    else:
        if error is not None and not isinstance(error, SystemExit):
            raise error
        found = result.return_value or 0
        result.told = result.stderr
    assert code in (found, None), result.told
    return result


def size_of(path: Path | str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# --- names of results ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "name", "size"),
    [
        ([], "in_x4.png", (24, 20)),
        (["--scale", "2"], "in_x2.png", (12, 10)),
        (["-s", "2x"], "in_x2.png", (12, 10)),
        (["-s", "X2.5"], "in_x2.5.png", (15, 13)),
        (["--scale", "3.7"], "in_x3.7.png", (22, 19)),
        (["--scale", "1"], "in_x1.png", (6, 5)),
        (["--size", "13x11"], "in_13x11.png", (13, 11)),
        (["--size", "13X11"], "in_13x11.png", (13, 11)),
        (["--max-side", "18"], "in_max18.png", (18, 15)),
    ],
)
def test_name_and_size_of_the_result(here, calls, args, name, size):
    picture(here / "in.png")
    result = run("upscale", "in.png", *args)
    assert result.stdout == f"{name}\n"
    assert size_of(name) == size


def test_default_command(here, calls):
    picture(here / "in.png")
    assert run("in.png").stdout == "in_x4.png\n"
    assert run("--scale", "2", "in.png").stdout == "in_x2.png\n"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.jpg", "jpg"), ("a.JPEG", "JPEG"), ("a.webp", "webp"), ("a.tif", "tif"), ("a.bmp", "bmp"),
     ("a.gif", "gif")],
)  # fmt: skip
def test_the_format_of_the_input_is_kept(here, calls, name, suffix):
    picture(here / name)
    assert run(name).stdout == f"a_x4.{suffix}\n"
    with Image.open(f"a_x4.{suffix}") as made, Image.open(name) as source:
        assert made.format == source.format


def test_format_follows_the_name_asked_for_and_the_option(here, calls):
    picture(here / "in.png")
    run("in.png", "-o", "out.webp")
    run("in.png", "--format", "jpg", "--quality", "40")
    run("in.png", "--format", "png", "-o", "plain", "--strip")
    for name, kind in (("out.webp", "WEBP"), ("in_x4.jpg", "JPEG"), ("plain", "PNG")):
        with Image.open(name) as image:
            assert image.format == kind
    assert run("in.png", "-o", "out", code=2).told.count("no suffix")
    assert "one of .png" in run("in.png", "-o", "out.xyz", code=2).told


def test_a_picture_with_a_wrong_suffix_keeps_the_suffix_s_format(here, calls):
    picture(here / "true.png").rename(here / "a.jpg")
    run("a.jpg")
    with Image.open("a_x4.jpg") as image:
        assert image.format == "JPEG"


def test_folder_keeps_its_tree_and_leaves_out_what_is_no_picture(here, calls):
    for name in ("p/a.png", "p/b/c.jpg", "p/b/d e.webp", "p/.hidden.png", "p/.git/x.png"):
        picture(here / name)
    for name in ("p/Thumbs.db", "p/.DS_Store", "p/notes.txt"):
        (here / name).write_bytes(b"\0")
    out = run("p", "-o", "big").stdout.splitlines()
    assert out == ["big/a_x4.png", "big/b/c_x4.jpg", "big/b/d e_x4.webp"]
    assert all(Path(path).is_file() for path in out)


def test_earlier_results_are_not_enlarged_again(here, calls):
    for name in ("p/a.png", "p/b.jpg", "p/lone_x4.png"):
        picture(here / name)
    first = run("p").stdout.splitlines()
    assert first == ["p/a_x4.png", "p/b_x4.jpg", "p/lone_x4_x4.png"]
    again = run("p", "--scale", "2")
    assert again.stdout.splitlines() == ["p/a_x2.png", "p/b_x2.jpg", "p/lone_x4_x2.png"]
    assert "earlier results" in again.stderr
    assert run("p", "-o", "p/out").stdout.count("out/") == 3
    assert run("p", "-o", "p/out", "--overwrite").stdout.count("\n") == 3
    assert run("p/a_x4.png").stdout == "p/a_x4_x4.png\n"  # named, so wanted


def test_no_two_pictures_claim_one_name(here, calls):
    for name in ("a.jpg", "a.png", "x/a.png", "a_x4.png", "B.png", "b.png"):
        picture(here / name)
    names = ["a.jpg", "a.png", "x/a.png", "a_x4.png", "B.png", "b.png"]
    out = run(*names, "-o", "d/", "--format", "png").stdout.split()
    assert len({name.lower() for name in out}) == 6
    assert out[:2] == ["d/a_jpg_x4.png", "d/a_x4.png"]
    beside = run("a.jpg", "a.png", "a_x4.png").stdout.split()
    assert beside == ["a_x4.jpg", "a_png_x4.png", "a_x4_x4.png"]  # never onto an input


def test_one_picture_named_twice_is_done_once(here, calls):
    picture(here / "a.png")
    assert run("a.png", "./a.png", "*.png").stdout == "a_x4.png\n"


def test_long_names_are_shortened(here, calls):
    long = [picture(here / ("é" * 120 + end + ".png")) for end in ("aaaa", "bbbb")]
    out = run(*long, "--scale", "3.7").stdout.splitlines()
    assert len(set(out)) == 2
    assert all(Path(name).is_file() and len(Path(name).name.encode()) <= 255 for name in out)


def test_leading_dash_space_and_bytes_that_are_no_text(here, calls):
    for name in ("-a.png", "a b#.png"):
        picture(here / name)
    raw = os.fsdecode(b"\xff\xfe.png")
    try:
        picture(here / "tmp.png").rename(raw)
    except OSError:  # a file system that takes only text
        raw = "a b#.png"
    assert run("--", "-a.png").stdout == "-a_x4.png\n"
    assert run("a b#.png").stdout == "a b#_x4.png\n"
    result = run(raw, "--overwrite", "--json")
    assert json.loads(result.stdout)["input"] == raw
    assert run(raw, "--overwrite").stdout_bytes == os.fsencode(raw[:-4] + "_x4.png\n")


def test_patterns_and_lists(here, calls):
    for name in ("p/a.png", "p/q/b.png", "p/c.jpg"):
        picture(here / name)
    (here / "p/x.txt").write_text("no picture")
    assert run("p/**/*.png", "--dry-run").stdout.split() == ["p/a_x4.png", "p/q/b_x4.png"]
    made = ["p/a_x4.png", "p/c_x4.jpg", "p/q/b_x4.png"]  # q is a folder that matches
    assert run("p/*", "--dry-run").stdout.split() == made
    (here / "list").write_bytes(b"p/a.png\r\n\n p/none.png\np/c.jpg")
    found = run("--from-file", "list", "--dry-run", code=1)
    assert found.stdout.split() == ["p/a_x4.png", "p/c_x4.jpg"]
    null = run("--from-file", "-", "--null", "--dry-run", input=b"p/a.png\0p/q/b.png\0")
    assert null.stdout.split() == ["p/a_x4.png", "p/q/b_x4.png"]
    picture(here / "s[1].png")
    assert run("s[1].png").stdout == "s[1]_x4.png\n"
    run("--from-file", "absent", code=3)
    run("a.png", "--null", code=2)
    run("*.tif", code=3)


def test_output_forms(here, calls):
    picture(here / "a.png")
    picture(here / "b.png")
    assert run("a.png", "-o", "new/deep/x.png").stdout == "new/deep/x.png\n"
    assert run("a.png", "-o", "dir/").stdout == "dir/a_x4.png\n"
    assert run("b.png", "-o", "dir").stdout == "dir/b_x4.png\n"
    assert run("a.png", "b.png", "-o", "many").stdout == "many/a_x4.png\nmany/b_x4.png\n"
    assert "name a folder: -o results/" in run("a.png", "b.png", "-o", "x.png", code=2).told
    assert "the input itself" in run("a.png", "-o", "./a.png", "--overwrite", code=2).told
    run("a.png", "b.png", "-o", "-", code=2)
    (here / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made, because a file is in its way; name"):
        CliRunner().invoke(cli, ["a.png", "-o", "file/x/"], standalone_mode=False,
                           catch_exceptions=False)  # fmt: skip


def test_a_folder_that_takes_no_files_is_found_before_the_work(here, calls, monkeypatch):
    picture(here / "p/a.png")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root every folder takes them
    assert "no permission" in run("p/a.png", code=1).stderr
    assert "no permission" in run("p/a.png", "-o", "q/", code=1).told
    assert calls == []


def test_standard_input_and_output(here, calls):
    data = picture(here / "a.jpg").read_bytes()
    result = run("-", input=data)
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        assert (image.format, image.size) == ("JPEG", (24, 20))
    assert run("-", "-o", "dir/", input=data).stdout == "dir/stdin_x4.jpg\n"
    result = run("a.jpg", "-o", "-", "--format", "png")
    assert result.stdout_bytes.startswith(b"\x89PNG")
    assert run("-", "-o", "x.png", "--json", input=data).stdout.startswith('{"input": "-"')
    run("-", "--json", input=data, code=2)
    run("-", "--samples", "2", input=data, code=2)
    run("-", input=b"", code=3)
    assert "standard input" in run("-", input=b"<html>", code=3).stderr


# --- options ------------------------------------------------------------------------------------


def test_every_setting_reaches_the_upscaler(here, calls):
    picture(here / "in.png")
    run("in.png", "--method", "sr3", "--weights", "w.safetensors", "--domain", "face",
        "--device", "cpu", "--dtype", "fp32", "--offline", "--compile", "--input", "real",
        "--scale", "2", "--steps", "7", "--preset", "best", "--sampler", "heun",
        "--denoise", "0.3", "--faces", "--same-noise", "--spacing", "phi", "--seed", "9",
        "--temperature", "0.5",
        "--parametrisation", "hybrid:2", "--rtol", "1e-4", "--atol", "0.01",
        "--tile", "256", "--overlap", "32", "--one-stage", "--consistency", "off")  # fmt: skip
    assert calls == [
        {"method": "sr3", "weights": "w.safetensors", "domain": "face", "device": "cpu",
         "dtype": "fp32", "offline": True, "compile": True, "input": "real"},
        {"seed": 9, "sample": 0, "temperature": 0.5, "parametrisation": "hybrid:2",
         "rtol": 1e-4, "atol": 0.01, "consistency": "off", "scale": 2.0, "denoise": 0.3,
         "size": None, "max_side": None, "steps": 7, "sampler": "heun", "preset": "best",
         "spacing": "phi", "same_noise": True,
         "tile": 256, "overlap": 32, "one_stage": True, "faces": True},
    ]  # fmt: skip


def test_environment(here, calls, monkeypatch):
    picture(here / "in.png")
    own = {"STEPS": "5", "SIZE": "12x10", "SAMPLER": "ddim"}
    for name, value in {**{f"UPSCALE_{k}": v for k, v in own.items()}, "QUIET": "1"}.items():
        monkeypatch.setenv(f"DIFFSR_{name}", value)
    assert run("in.png").stderr == ""
    assert (calls[-1]["steps"], calls[-1]["size"], calls[-1]["sampler"]) == (5, (10, 12), "ddim")
    run("in.png", "--scale", "2", "--steps", "3")  # the command line goes before
    assert (calls[-1]["steps"], calls[-1]["size"], calls[-1]["scale"]) == (3, None, 2.0)
    monkeypatch.setenv("DIFFSR_UPSCALE_METHOD", "regression")
    run("in.png", "--weights", "sr3-photo", "--overwrite")
    assert (calls[-2]["method"], calls[-2]["weights"]) == (None, "sr3-photo")
    monkeypatch.setenv("DIFFSR_UPSCALE_STEPS", "none")
    run("in.png", code=2)


def every_option(command=cli, path=()):
    """(words of the command, option) of every command."""
    ctx = click.Context(command)
    for name in command.list_commands(ctx) if isinstance(command, click.Group) else ():
        yield from every_option(command.get_command(ctx, name), (*path, name))
    yield from ((path, p) for p in command.params if isinstance(p, click.Option) and path)


def test_every_option_has_a_variable_of_its_own_and_help():
    names, kinds = [], {}
    for path, param in every_option():
        name, *shared = environment.variables(param, "_".join(("DIFFSR", *path)).upper())
        names.append(name)
        assert param.help and param.group
        if shared:  # one name for several commands has one meaning
            kinds.setdefault(shared[0], []).append((type(param.type), param.is_flag))
    assert len(names) == len(set(names)) > 200
    assert "DIFFSR_UPSCALE_JSON" in names and "DIFFSR_HUMANEVAL_BUILD_SCALE" in names
    assert all(len(set(found)) == 1 for found in kinds.values()), kinds
    assert {name.lower()[7:] for name in kinds} == set(environment.SHARED)


def test_a_variable_belongs_to_one_command(here, calls, monkeypatch):
    picture(here / "in.png")
    monkeypatch.setenv("DIFFSR_TRAIN_SCALE", "8")
    monkeypatch.setenv("DIFFSR_SEED", "5")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", "")
    result = run("in.png")
    assert calls[-1]["seed"] == 5 and "not read" not in result.stderr
    monkeypatch.setenv("DIFFSR_UPSCALE_SEED", "6")  # the nearer one
    run("in.png", "--overwrite")
    assert calls[-1]["seed"] == 6


def test_a_file_of_settings(here, calls, monkeypatch):
    picture(here / "in.png")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here))
    (here / "diffsr").mkdir()
    (here / "diffsr/config.toml").write_text(
        "seed = 7\n[upscale]\nscale = 2\nskip-existing = true\nstep = 1\n[bench]\nsteps = [1, 2]\n"
    )
    result = run("in.png")
    assert (result.stdout, calls[-1]["seed"]) == ("in_x2.png\n", 7)
    assert f"{here / 'diffsr/config.toml'}: upscale.step is not read: write upscale.steps\n" in (
        result.stderr
    )
    assert "exists, skipped" in run("in.png").stderr
    monkeypatch.setenv("DIFFSR_SEED", "8")
    monkeypatch.setenv("DIFFSR_UPSCALE_SIZE", "12x10")  # each goes before the file
    assert run("in.png", "--overwrite", "--scale", "3").stdout == "in_x3.png\n"
    assert calls[-1]["seed"] == 8
    assert run("in.png", "--dry-run").stdout == "in_12x10.png\n"
    (here / "other.toml").write_text("scale =")
    monkeypatch.setenv("DIFFSR_CONFIG", "other.toml")
    assert "other.toml: the settings cannot be read" in run("in.png", code=2).told


def test_settings_in_a_home_that_is_shut_are_none(here, calls, monkeypatch):
    """As where another user's HOME is left, by su, sudo, cron or a container."""
    picture(here / "in.png")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "shut"))
    look = os.stat

    def stat(path, *args, **options):
        if not isinstance(path, int) and str(here / "shut") in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert run("in.png").stdout == "in_x4.png\n"
    assert not registry._own_lists()


@pytest.mark.parametrize(
    ("near", "far"),
    [("size", "scale"), ("overwrite", "skip_existing"), ("verbose", "quiet"),
     ("weights", "method"), ("method", "weights")],
)  # fmt: skip
def test_of_exclusive_options_a_variable_goes_before_the_file(here, calls, monkeypatch, near, far):
    picture(here / "in.png")
    values = {"size": "9x9", "scale": 2, "method": "bicubic", "weights": "sr3-photo"}
    value = {name: values.get(name, True) for name in (near, far)}
    Path("s.toml").write_text(f"[upscale]\n{far} = {json.dumps(value[far])}\n")
    monkeypatch.setenv("DIFFSR_CONFIG", "s.toml")
    monkeypatch.setenv(f"DIFFSR_UPSCALE_{near.upper()}", str(value[near]))
    run("in.png", "--dry-run")
    assert calls[0].get(far) is None  # of a method and weights, too, the nearer alone counts


def test_a_variable_that_nobody_reads_is_told_once(here, calls, monkeypatch):
    picture(here / "in.png")
    for name in ("DIFFSR_SAMPLER", "DIFFSR_UPSCALE_STEP", "DIFFSR_ZZZ"):
        monkeypatch.setenv(name, "1")
    told = run("in.png").stderr
    assert told.count("is not read") == 3 and told.count("DIFFSR_UPSCALE_STEP is not read") == 1
    assert "DIFFSR_SAMPLER is not read: write DIFFSR_UPSCALE_SAMPLER or DIFFSR_GENERATE_" in told
    assert "DIFFSR_UPSCALE_STEP is not read: write DIFFSR_UPSCALE_STEPS" in told
    assert "DIFFSR_ZZZ is not read\n" in told
    assert run("in.png", "--overwrite", "-q").stderr == ""


@pytest.mark.parametrize(
    "args",
    [
        ["--scale", "17"], ["--scale", "0.9"], ["--scale", "nan"], ["--scale", "x"],
        ["-s", "2xx"], ["-s", "x2x"],
        ["--size", "10"], ["--size", "0x5"], ["--max-side", "0"], ["--steps", "0"],
        ["--seed", "-1"], ["--samples", "0"], ["--temperature", "-1"], ["--temperature", "inf"],
        ["--tile", "5"], ["--tile", "-128"], ["--tile", "big"], ["--overlap", "-1"],
        ["--quality", "101"], ["--max-pixels", "0"], ["--format", "exe"], ["--frames", "some"],
        ["--device", "tpu"], ["--dtype", "fp8"], ["--consistency", "on"], ["--spacing", "x"],
        ["--scale", "2", "--size", "9x9"], ["--size", "9x9", "--max-side", "9"],
        ["--rtol", "0"], ["--rtol", "-1"], ["--atol", "0"], ["--atol", "nan"], ["--rtol", "inf"],
        ["--sampler", "euler"], ["--overwrite", "--skip-existing"], ["-q", "-v"],
        ["--uncertainty"], ["--nonsense"],
    ],
)  # fmt: skip
def test_what_cannot_be_meant(here, calls, args):
    picture(here / "in.png")
    run("in.png", *args, code=2)
    assert calls == []
    assert os.listdir() == ["in.png"]


def test_misspelt_names_are_answered_with_the_nearest(here, calls):
    assert "Did you mean bicubic?" in run("a", "--method", "bicubc", code=2).told
    assert "Did you mean dpmpp2m?" in run("a", "--sampler", "dpm++2m", code=2).told
    assert "choose from" in run("a", "--method", "zzz", code=2).told.lower()
    assert "did you mean `diffsr train`" in run("trian", code=3).stderr
    picture(here / "photo.png")
    assert "did you mean photo.png" in run("phto.png", code=3).stderr
    run("upscale", code=2)


def test_samples_and_their_deviation(here, calls):
    picture(here / "in.jpg")
    result = run("in.jpg", "--samples", "3", "--uncertainty", "--json")
    record = json.loads(result.stdout)
    assert record["outputs"] == ["in_x4_s1.jpg", "in_x4_s2.jpg", "in_x4_s3.jpg"]
    assert record["uncertainty"] == "in_x4_std.png"
    assert len(record["samples"]) == 3
    assert [call["sample"] for call in calls[1:]] == [0, 1, 2]
    with Image.open("in_x4_std.png") as image:
        grey = np.asarray(image.convert("L"), dtype=float)
    # 0, 0.2, 0.2 apart in every colour: a deviation of 0.1155, shown as 0.1155 / 0.25
    assert abs(grey[0, 0] / 255 - 0.11547 / 0.25) < 0.01
    assert grey[1:].max() == 0


@pytest.mark.parametrize("how", ["--method bicubic", "--temperature 0 --steps 1", ""])
def test_samples_that_are_all_the_same_are_told(here, tiny_weights, how):
    picture(here / "a.png")
    how = how if "bicubic" in how else f"--weights {tiny_weights} {how}"
    record = json.loads(run("a.png", "--samples", "2", "--json", *how.split()).stdout)
    first, second = ((here / f"a_x4_s{n}.png").read_bytes() for n in (1, 2))
    told = f"{record['method']} used no noise: all samples are the same" in record["notes"]
    assert told == (first == second) == ("--method" in how or "--temperature" in how)


def test_existing_results(here, calls):
    picture(here / "a.png")
    run("a.png")
    before = os.stat("a_x4.png")
    assert "--overwrite" in run("a.png", code=1).stderr
    skipped = run("a.png", "--skip-existing", "--json")
    assert json.loads(skipped.stdout)["status"] == "skipped"
    assert run("a.png", "--skip-existing").stdout == ""
    assert os.stat("a_x4.png").st_ino == before.st_ino
    run("a.png", "--overwrite")
    assert os.stat("a_x4.png").st_ino != before.st_ino
    picture(here / "b.png")
    assert run("a.png", "b.png", code=1).stdout == "b_x4.png\n"
    run("a.png", "--samples", "2")
    Path("a_x4_s1.png").unlink()
    kept = os.stat("a_x4_s2.png").st_ino
    run("a.png", "--samples", "2", "--skip-existing")
    assert Path("a_x4_s1.png").exists()
    assert os.stat("a_x4_s2.png").st_ino == kept


def test_json_holds_one_object_a_picture(here, calls):
    picture(here / "a.png")
    (here / "b.png").write_bytes(b"")
    result = run("a.png", "b.png", "none.png", "--json", code=1)
    records = {r["input"]: r for r in map(json.loads, result.stdout.splitlines())}
    assert records["a.png"]["status"] == "ok"
    assert records["a.png"]["output"] == "a_x4.png"
    assert records["a.png"]["lr_psnr"] is None  # infinite
    assert records["b.png"]["status"] == records["none.png"]["status"] == "failed"
    assert "empty" in records["b.png"]["error"]


def test_dry_run_does_nothing(here, calls):
    picture(here / "a.png")
    result = run("a.png", "--dry-run", "--json", "-o", "new/")
    record = json.loads(result.stdout)
    assert (record["status"], record["output"]) == ("planned", "new/a_x4.png")
    assert (record["size_in"], record["size_out"]) == ([5, 6], [20, 24])
    assert {"stages", "steps", "nfe", "tiles", "memory", "exists"} <= record.keys()
    assert os.listdir() == ["a.png"]
    text = run("a.png", "--dry-run")
    assert text.stdout == "a_x4.png\n"
    assert "network calls" in text.stderr
    made = [call for call in calls if "sample" not in call]
    assert len(made) == 2 and len(calls) == 2 + 2 * 2  # a part of each is timed, the second time
    assert record["seconds"] >= 0 and re.search(r"MiB and [\d.]+ s", text.stderr)
    picture(here / "b.png", (9, 40))
    assert re.search(r"2 pictures, about [\d.]+ s\n", run("a.png", "b.png", "--dry-run").stderr)


def test_a_dry_run_counts_no_steps_that_nobody_knows_beforehand(here, calls):
    picture(here / "a.png")
    result = run("a.png", "--dry-run", "--json", "--sampler", "rk45")
    record = json.loads(result.stdout)
    assert record["steps"] is record["nfe"] is None and record["stages"] == [[20, 24, None]]
    assert "1 stage, as many rk45 steps as it takes, 1 tile" in result.stderr


def test_what_is_left_is_told_from_the_first_picture_on(here, calls):
    for name in "abc":
        picture(here / f"{name}.png", (40, 30))
    (here / "b.png").write_bytes(b"")
    told = run("gone.png", "a.png", "b.png", "c.png", code=1).stderr
    assert re.search(r"a_x4.png: 40x30 to 160x120, [\d.]+ s; 1 of 3, about [\d.]+ s left\n", told)
    assert re.search(r"c_x4.png: 40x30 to 160x120, [\d.]+ s\n", told)


def test_quiet_verbose_and_lines(here, calls):
    picture(here / "a.png")
    assert "6x5 to 24x20" in run("a.png").stderr
    assert run("a.png", "-q", "--overwrite").stderr == ""
    assert "method fake" in run("a.png", "-v", "--overwrite").stderr
    assert "none.png" in run("none.png", "-q", code=3).stderr


def test_reading_options(here, calls):
    picture(here / "big.png", (40, 30))
    assert "--max-pixels" in run("big.png", "--max-pixels", "1000", code=3).stderr
    frames = [Image.new("RGB", (6, 5), c) for c in ("red", "blue")]
    frames[0].save(here / "m.gif", save_all=True, append_images=frames[1:])
    assert "--frames first" in run("m.gif", code=3).stderr
    assert "first of 2" in run("m.gif", "--frames", "first", "-o", "m.png").stderr
    assert "2 frames, 6x5 to 24x20" in run("m.gif", "--frames", "all").stderr
    data = picture(here / "t.jpg", (64, 64)).read_bytes()
    (here / "t.jpg").write_bytes(data[: len(data) // 2])
    assert "--allow-truncated" in run("t.jpg", code=3).stderr
    run("t.jpg", "--allow-truncated")


def test_provenance_is_written_and_stripped(here, calls):
    picture(here / "a.png", dpi=(300, 300))
    run("a.png", "--seed", "3")
    with Image.open("a_x4.png") as image:
        assert re.match(r"diffsr .*method=fake.*seed=3", image.info["Software"])
        assert round(image.info["dpi"][0]) == 300
    run("a.png", "--strip", "-o", "bare.png")
    with Image.open("bare.png") as image:
        assert not {"Software", "dpi", "exif"} & image.info.keys()


def test_size_limits_are_checked_before_the_work(here, calls):
    picture(here / "wide.png", (1200, 1))
    assert "16383" in run("wide.png", "--scale", "16", "--format", "webp", code=1).stderr
    assert len(calls) == 1  # made, never called


# --- other commands -----------------------------------------------------------------------------


def test_modes_that_act_in_every_step_are_modes_of_consistency():
    from upscale.pipeline import consistency
    from upscale.pipeline.request import CONSISTENCY

    assert consistency.IN_STEPS.keys() < set(CONSISTENCY)


def test_doctor(here, monkeypatch):
    monkeypatch.setenv("DIFFSR_STEPS", "5")
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    report = json.loads(run("doctor", "--json").stdout)
    assert {"versions", "pictures", "device", "weights", "environment"} == report.keys()
    assert report["environment"]["DIFFSR_STEPS"] == "5"
    monkeypatch.setenv("DIFFSR_CONFIG", "settings.toml")
    (here / "settings.toml").write_text("[upscale]\nsteps = 6\nscale = 2\n")
    monkeypatch.setenv("DIFFSR_UPSCALE_SCALE", "3")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", "own.toml")
    (here / "own.toml").write_text("[weights.mine")
    told = run("doctor", "--json", code=5)
    report = json.loads(told.stdout)
    assert report["weights"]["lists"].startswith("own.toml: not TOML")
    names = ("DIFFSR_UPSCALE_STEPS", "DIFFSR_UPSCALE_SCALE")
    assert [report["environment"][name] for name in names] == ["6", "3"]
    text = run("doctor", code=5).stdout
    assert "torch" in text
    assert "very-secret" not in text


def test_completion(here):
    for shell, word in {"bash": "complete", "zsh": "compdef", "fish": "complete"}.items():
        script = run("completion", shell).stdout
        assert word in script
        assert "_DIFFSR_COMPLETE" in script
    run("completion", "tcsh", code=2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("diffsr in.png --sampler d", {"ddpm", "ddpm-posterior", "ddim", "dpmpp2m"}),
        ("diffsr upscale --method bi", {"bicubic"}),
        ("diffsr tr", {"train"}),
        ("diffsr --samp", {"--sampler", "--samples"}),
    ],
)
def test_completing_words_without_torch(here, words, expected):
    code = (
        "import sys\nfrom upscale.cli.main import cli\n"
        "try: cli.main(prog_name='diffsr')\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    env = {**os.environ, "_DIFFSR_COMPLETE": "bash_complete", "COMP_WORDS": words,
           "COMP_CWORD": str(len(words.split()) - 1), "PYTHONPATH": str(ROOT)}  # fmt: skip
    made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert made.stderr == ""
    assert {line.partition(",")[2] for line in made.stdout.split()} - {"tr"} == expected


def test_a_dry_run_of_training_and_what_it_refuses(here, monkeypatch):
    from upscale.train import measure

    monkeypatch.setattr(measure, "SECONDS", 0.0)
    picture(here / "p/a.png")
    args = ["train", "--dataset", "folder:p", "--output", "r", "--batch", "3",
            "--net", "compact-tiny", "--patch", "32"]  # fmt: skip
    shown = run(*args, "--dry-run").stdout
    assert "1 picture in p" in shown
    assert re.search(r"batch +3\n", shown)
    assert not Path("r").exists()
    run("train", "--dataset", "none", "--output", "r", code=3)
    run("train", "--dataset", "zip:p", "--output", "r", code=2)
    run(*args, "--patch", "17", code=2)
    run(*args, "--method", "sr33", code=2)
    run("train", code=2)


def test_train_calls_the_trainer(here, monkeypatch):
    trainer = pytest.importorskip("upscale.train.run")
    from upscale.train.loop import Progress

    picture(here / "p/a.png")
    seen = {}

    def fake(config, dataset, output, **rest):
        seen.update(rest, config=config, dataset=dataset, output=output)
        rest["say"]("1 picture")
        rest["on_progress"](Progress(100, 200, 0.5, 1600, 8.0))
        assert rest["should_stop"]() is False
        return output / "w.safetensors"

    monkeypatch.setattr(trainer, "run_training", fake)
    result = run("train", "--dataset", "p", "--output", "r", "--iterations", "200",
                 "--max-minutes", "2", "--whole", "--quality-l1", "3")  # fmt: skip
    assert result.stdout == f"{Path('r') / 'w.safetensors'}\n"
    assert "iteration 100 of 200, loss 0.5000" in result.stderr
    assert (seen["config"].whole, seen["config"].quality_l1) == (True, 3.0)
    assert (seen["max_minutes"], seen["name"], seen["init"]) == (2.0, "my-sr3-photo", None)


BENCH_ROWS = [
    {"picture": "a.png", "method": "bicubic", "psnr_y": 20.5, "lpips": None, "kernel": "box"},
    {"picture": "b.png", "method": "bicubic", "psnr_y": 22.5, "lpips": None, "kernel": "box"},
]


@pytest.fixture
def bench(monkeypatch):
    """`diffsr bench` with rows that are known; returns the options it was given."""

    import upscale.cli.bench.command as module
    from upscale.cli.bench import run as measuring

    seen: dict = {}

    def fake(options, reporter, shown):
        seen.update(options)
        for done, row in enumerate(BENCH_ROWS, 1):
            measuring.tell_row(row, done, 2, reporter)
        return BENCH_ROWS

    monkeypatch.setattr(module, "run_bench", fake)
    return seen


def test_bench(here, bench):
    picture(here / "d/a.png")
    result = run("bench", "--dataset", "d", "--method", "bicubic,lanczos", "--steps", "4,16",
                 "--sampler", "ddim, heun", "--metrics", "psnr_y,lpips",
                 "--temperature", "0.4,1", "--parametrisation", "hybrid, hybrid:2")  # fmt: skip
    assert (bench["method"], bench["steps"]) == (("bicubic", "lanczos"), (4, 16))
    assert (bench["sampler"], bench["metrics"]) == (("ddim", "heun"), ("psnr_y", "lpips"))
    assert (bench["temperature"], bench["parametrisation"]) == ((0.4, 1.0), ("hybrid", "hybrid:2"))
    assert result.stdout.startswith("|  | PSNR-Y | LPIPS (alex) | calls |\n")  # to a pipe
    assert "1/2 a.png bicubic: psnr_y 20.5" in result.stderr
    told = json.loads(run("bench", "--dataset", "d", "--json", "-").stdout)
    assert told == {"rows": BENCH_ROWS, "differences": []}
    run("bench", "--dataset", "d", "--csv", "r.csv", "--markdown", "r.md", "-q")
    expected = "picture,method,psnr_y,lpips,kernel\na.png,bicubic,20.5,,box\n"
    assert Path("r.csv").read_text().startswith(expected)
    assert "| bicubic | 21.50 | - |" in Path("r.md").read_text()
    run("bench", "--dataset", "d", "--outputs", "none", code=3)
    run("bench", "--data", "none", code=3)
    run("bench", "--dataset", "d", "--outputs", "d", "--scale", "2,4", code=2)
    run("bench", "--dataset", "d", "--html", "-", code=2)
    run("bench", "--dataset", "d", "--json", "-", "--csv", "-", code=2)
    for wrong, told in (
        ("-o r.html", "--output belongs to --tune-schedule"),
        ("--trials a b", "--trials belongs to --compare"),
        ("--compare a b --dataset d", "--compare makes no use of --dataset"),
        ("--unpaired --dataset d --outputs d --samples 2", "--unpaired makes no use of --samples"),
        ("--tune-schedule --html r.html", "--tune-schedule makes no use of --html"),
    ):
        assert told in run("bench", *wrong.split(), code=2).told
    run("bench", "--dataset", "d", "--json", "none/r.json", code=1)
    run("bench", "--weights", "w,v", "--scale", "2, 4")
    assert (bench["weights"], bench["scale"], bench["method"]) == (("w", "v"), (2.0, 4.0), ())
    run("bench", "--weights", "w", "--method", "bicubic,sr3", "--outputs", "d", "--outputs", ".")
    assert bench["method"] == ("bicubic", "sr3")
    assert bench["outputs"] == (("d", Path("d")), (here.name, Path(".")))
    run("bench", "--outputs", "A=d", "--outputs", "B=d")
    assert bench["outputs"] == (("A", Path("d")), ("B", Path("d")))
    assert "Did you mean psnr" in run("bench", "--dataset", "d", "--metrics", "pnsr", code=2).told


def test_bench_says_that_it_works_before_it_loads_anything(here, monkeypatch):
    import upscale.bench

    monkeypatch.delattr(upscale.bench, "testsets", raising=False)
    monkeypatch.setitem(sys.modules, "upscale.bench.testsets", None)  # cannot be imported
    result = CliRunner().invoke(cli, ["bench", "--dataset", "d"], standalone_mode=False)
    assert isinstance(result.exception, ImportError) and result.stderr == "measuring\n"


def test_bench_fits_its_table_to_a_terminal(here, bench, monkeypatch):
    import upscale.cli.bench.command as module

    picture(here / "d/a.png")
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(module, "sys", terminal)
    shown = run("bench", "--dataset", "d").stdout
    assert "21.5" in shown and "PSNR-Y" in shown and "|" not in shown
    quiet = run("bench", "--dataset", "d", "-q")  # the table is no message
    assert (quiet.stdout, quiet.stderr) == (shown, "")


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_help_of_every_command(name):
    result = run(*filter(None, [name]), "--help")
    assert "Usage: diffsr" in result.output.replace("Usage: cli", "Usage: diffsr")


@pytest.mark.parametrize("name", ["upscale", "train", "bench", "generate"])
def test_help_shows_the_common_options_and_help_all_every_one(name):
    command = cli.get_command(click.Context(cli), name)
    short, full = (run(name, flag).output for flag in ("--help", "--help-all"))
    options = [param for param in command.params if isinstance(param, click.Option)]
    for page in (short, full):  # once, not at every option
        assert page.count("An environment variable sets") == 1
    for param in options:
        flag = rf"(?m)^  (-\w, )?{max(param.opts, key=len)}\b(?!-)"
        assert re.search(flag, full)
        assert bool(re.search(flag, short)) is not param.expert
    assert f"shows all {len(options)}" in " ".join(short.split())


def test_help_of_upscale_fits_sixty_lines():
    assert len(run("upscale", "--help").output.splitlines()) <= 60


def test_help_writes_ranges_and_defaults_in_words():
    @click.command(cls=Command, examples=[("diffsr x", "does x")])
    @option("--side", type=click.IntRange(2), default=4, help="Side.", group="Size")
    @option("--share", type=Finite(0, 1), help="Share.", show_default="stored in the weights")
    @option("--rest", type=Finite(0, min_open=True), help="Rest.")
    @QUIET
    def one(**options):
        pass

    page = CliRunner().invoke(one, ["--help"], prog_name="x").output
    assert "Side. [2 or more; default: 4]" in page
    assert "Share. [0 to 1; default: stored in the weights]" in page
    assert "Rest. [above 0]" in page
    titles = re.findall(r"(?m)^([A-Z]\w+):$", page)
    assert titles == ["Examples", "Size", "Options", "General"]
    assert "--help-all" not in page  # a short page has all


def test_errors_have_their_codes():
    assert (UsageError.exit_code, InputError.exit_code, OutputError.exit_code) == (2, 3, 1)
