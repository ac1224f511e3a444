"""`diffsr humaneval build|serve|report`: options, pairing by name, exit codes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("scipy")
pytest.importorskip("starlette")
pytest.importorskip("matplotlib")

from humaneval_study import Client, make_study, serving

import upscale.cli.humaneval.build as module
from upscale.cli.humaneval.command import command
from upscale.cli.main import cli
from upscale.errors import DiffsrError
from upscale.humaneval.session import Sessions
from upscale.humaneval.store import PICTURES, open_study

ROOT = Path(__file__).parents[1]


def pictures(folder: str, size: tuple[int, int] = (22, 18), count: int = 6, **options) -> Path:
    """a0.png to a5.png of (width, height), all different."""
    Path(folder).mkdir()
    for i in range(count):
        rng = np.random.default_rng((len(folder), i))
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path(folder) / f"a{i}.png", **options)
    return Path(folder)


def run(*args: object, code: int = 0):
    result = CliRunner().invoke(
        cli, ["humaneval", *map(str, args)], standalone_mode=False
    )  # fmt: skip
    error = result.exception
    if isinstance(error, (DiffsrError, click.ClickException)):
        found, said = error.exit_code, str(getattr(error, "message", error))
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    else:
        found, said = result.return_value or 0, ""
    result.told = result.stderr + said
    assert found == code, result.told
    return result


FEW = ("--images", 3, "--checks", 1, "--practice", 1, "--subjects", 2, "--seconds", 0.05)


def rgb_of(study: str, picture: int, role: str) -> np.ndarray:
    store = open_study(Path(study))
    file = store.files()[picture, role]
    store.close()
    with Image.open(Path(study) / PICTURES / file) as image:
        return np.asarray(image.convert("RGB"))


def test_build_from_outputs(here):
    pictures("hr")
    pictures("mine", (20, 16))
    for path in pictures("theirs!", (20, 16)).iterdir():
        path.rename(path.with_stem(f"{path.stem}_x4"))
    made = run("build", "--hr", "hr", "--outputs", "mine=mine", "--outputs", "other=theirs!",
               "-o", "study", "--pairs", "mine:other", *FEW)  # fmt: skip
    assert made.stdout == "study\n"
    assert "2 subjects, each 3 of 6 pictures, 0.05 s; task 1 or 2; mine, other" in made.stderr
    with Image.open("hr/a2.png") as truth, Image.open("mine/a2.png") as sr:
        # cut to a multiple of 4, as bench cuts
        assert (rgb_of("study", 2, "truth") == np.asarray(truth)[:16, :20]).all()
        assert (rgb_of("study", 2, "mine") == np.asarray(sr)).all()
    assert rgb_of("study", 2, "lr").shape == (16, 20, 3)
    store = open_study(Path("study"))
    assert store.meta["conditions"] == [["truth", "mine"], ["truth", "other"], ["mine", "other"]]
    store.close()
    assert "exists" in run("build", "--hr", "hr", "--outputs", "mine=mine", "-o", "study", *FEW,
                           code=1).told  # fmt: skip


def test_build_with_a_folder_of_low_resolution(here):
    pictures("hr", (20, 16))
    pictures("lr", (10, 8))
    pictures("sr", (20, 16))
    run("build", "--hr", "hr", "--lr", "lr", "--outputs", "m=sr", "-o", "s", "--show-lr", "nearest",
        *FEW)  # fmt: skip
    with Image.open("lr/a1.png") as lr:
        assert (rgb_of("s", 1, "lr")[::2, ::2] == np.asarray(lr)).all()
    (here / "lr/a3.png").unlink()
    assert "nothing named as a3" in run("build", "--hr", "hr", "--lr", "lr", "--outputs", "m=sr",
                                        "-o", "t", *FEW, code=3).told  # fmt: skip
    pictures("wide", (10, 4))
    assert "no smaller version" in run("build", "--hr", "hr", "--lr", "wide", "--outputs", "m=sr",
                                       "-o", "t", *FEW, code=3).told  # fmt: skip
    assert not Path("t").exists()


def test_build_with_methods(here, monkeypatch):
    pictures("hr")
    asked = []

    def make_maker(method, options, on_bytes):
        asked.append((method, options["seed"], options["steps"]))
        return lambda lr, size: np.full((*size, 3), 0.25 if method == "sr3" else 0.5, np.float32)

    monkeypatch.setattr(module, "make_maker", make_maker)
    run("build", "--hr", "hr", "--method", "sr3,ecdp", "-o", "s", "--seed", 4, "--steps", 3, *FEW,
        "--limit", 5, "--domain", "face")  # fmt: skip
    assert asked == [("sr3", 4, 3), ("ecdp", 4, 3)]
    assert (rgb_of("s", 0, "sr3") == 64).all() and (rgb_of("s", 4, "ecdp") == 128).all()
    store = open_study(Path("s"))
    assert store.meta["seed"] == 4 and store.row("SELECT count(*) FROM picture")[0] == 5
    store.close()


@pytest.mark.parametrize("methods", [("bicubic", "sr3"), ()])
def test_weights_go_to_the_method_that_they_are_for(here, monkeypatch, methods):
    pictures("hr")
    asked = {}

    def make_maker(method, options, on_bytes):
        asked[method] = options["weights"]
        return lambda lr, size: np.full((*size, 3), 0.5, np.float32)

    monkeypatch.setattr(module, "make_maker", make_maker)
    named = ["--method", ",".join(methods)] if methods else []
    run("build", "--hr", "hr", *named, "--weights", "sr3-photo", "-o", "s", *FEW)
    assert asked == {**dict.fromkeys(methods), "sr3": "sr3-photo"}


def test_the_bundled_bicubic_makes_pictures(here):
    pictures("hr", (20, 16))
    run("build", "--hr", "hr", "--method", "bicubic", "-o", "s", *FEW)
    # bicubic of the input is what stands in the middle of task 1
    assert (rgb_of("s", 0, "bicubic") == rgb_of("s", 0, "lr")).mean() > 0.99


def test_viewing_time_follows_the_domain_and_crop_is_told(here):
    pictures("hr", (40, 24))
    pictures("sr", (40, 24))
    few = ("--images", 3, "--checks", 1, "--practice", 1)
    args = ("build", "--hr", "hr", "--outputs", "m=sr", *few)
    assert "central 16x16" in run(*args, "-o", "a", "--crop", 16).stderr
    assert rgb_of("a", 0, "truth").shape == (16, 16, 3)
    run(*args, "-o", "b", "--domain", "face", "--crop", 0)
    for name, seconds in (("a", 6.0), ("b", 3.0)):
        store = open_study(here / name)
        assert store.meta["seconds"] == seconds
        store.close()


def test_a_study_goes_to_the_folder_behind_a_link_and_to_none_that_it_cannot_replace(here):
    pictures("hr", (20, 16))
    args = ("build", "--hr", "hr", "--method", "bicubic", *FEW, "-o")
    (here / "empty").mkdir()
    (here / "link").symlink_to("empty")
    run(*args, "link")
    assert (here / "link").is_symlink() and (here / "empty/study.db").is_file()
    (here / "file").touch()
    assert "file/s: the study cannot be written" in run(*args, "file/s", code=1).told
    (here / "in").mkdir()
    os.chdir("in")
    told = run("build", "--hr", "../hr", "--method", "bicubic", *FEW, "-o", ".", code=2).told
    assert "-o . is the folder that you are in" in told


def test_own_words(here):
    pictures("hr", (20, 16))
    (here / "consent.txt").write_text("Wir fragen Sie …\n", "utf-8")
    run("build", "--hr", "hr", "--method", "bicubic", "-o", "s", "--title", "Echt?",
        "--consent", "consent.txt", *FEW)  # fmt: skip
    store = open_study(Path("s"))
    assert (store.meta["title"], store.meta["consent"]) == ("Echt?", "Wir fragen Sie …")
    store.close()
    wrong = ("-o", "t", "--title", os.fsdecode(b"caf\xe9"))  # as a Latin-1 script gives it
    told = run("build", "--hr", "hr", "--method", "bicubic", *wrong, *FEW, code=2).told
    assert "it is not in UTF-8" in told and not Path("t").exists()
    (here / "consent.txt").write_text(" \n")
    assert "is empty" in run("build", "--hr", "hr", "--method", "bicubic", "-o", "t", "--consent",
                             "consent.txt", *FEW, code=3).told  # fmt: skip
    (here / "consent.txt").write_bytes(b"\xff")
    run("build", "--hr", "hr", "--method", "bicubic", "-o", "t", "--consent", "consent.txt", *FEW,
        code=3)  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        ([], 2, "nothing to compare"),
        (["--outputs", "x"], 3, "x: No such file"),
        (["--outputs", "m=hr", "--outputs", "m=hr"], 2, "named twice"),
        (["--outputs", "truth=hr"], 2, "cannot be named"),
        (["--outputs", "m=hr", "--pairs", "m"], 2, "NAME:NAME"),
        (["--outputs", "m=hr", "--pairs", "m:n"], 2, "choose from m"),
        (["--outputs", "m=hr", "--images", "50"], 2, "each is seen once"),
        (["--outputs", "m=hr", "--task", "3"], 2, ""),
        (["--outputs", "m=none"], 3, "none"),
        (["--outputs", "m=hr", "--weights", "w"], 5, "no weights named w"),
        (["--method", "ecdp,bicubic", "--weights", "sr3-photo"], 2, "are for --method sr3, not ec"),
        (["--method", "sr33"], 2, "Did you mean sr3"),
        (["--outputs", "m=small"], 3, "where 20x16 are compared"),
        (["--method", "bicubic", "--hr", "small", "--scale", "16"], 3, "small/a0.png: 10x8 is too"),
    ],
)
def test_what_cannot_be_built(here, args, code, told):
    pictures("hr", (20, 16))
    pictures("small", (10, 8))
    few = [] if "--images" in args else ["--images", "3", "--checks", "1", "--practice", "1"]
    assert told in run("build", "--hr", "hr", "-o", "s", *args, *few, code=code).told
    assert not Path("s").exists() and not list(here.glob(".s.*"))


def test_colour_profiles_that_differ_would_tell(here):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pictures("hr", (20, 16), icc_profile=profile)
    pictures("sr", (20, 16))
    assert "colour profile" in run("build", "--hr", "hr", "--outputs", "m=sr", "-o", "s", *FEW,
                                   code=3).told  # fmt: skip


def test_report(here):
    make_study(here / "study", pictures=12, images=9, subjects=8)
    assert "no answers yet" in run("report", "study", code=3).told
    assert "no study here" in run("report", "none", code=3).told
    made = run("report", "study", "--simulate", "0.4,one=0.2", "--seed", 2)
    assert made.stdout.startswith("| task | method | answers | fool rate | 95% interval | Wilson |")
    assert re.search(r"\| 2 \| two \| \d+ \| [\d.]+% \| [\d.]+-[\d.]+ \|", made.stdout)
    assert "answers of 8 subjects." in made.stderr
    assert sorted(p.name for p in Path("study/simulated").iterdir()) == [
        "answers.csv", "comparisons.csv", "pictures.csv", "rates.csv", "report.html", "report.json",
    ]  # fmt: skip
    told = json.loads(Path("study/simulated/report.json").read_text())
    assert told["simulated"] == "0.4,one=0.2"
    table = run("report", "study", "--simulate", "0.4", "--studies", 3).stdout
    assert re.search(r"\| 1 \| one \| 40.0% \| 3 \|", table)
    run("report", "study", "--studies", 3, code=2)
    run("report", "study", "--simulate", "1.4", code=2)
    run("report", "study", "--simulate", "0.4", "-o", "study/study.db/x", code=1)


def test_options_have_help():
    for name in ("build", "serve", "report"):
        for param in command.commands[name].params:
            if isinstance(param, click.Option):
                assert param.help
        assert "Usage:" in run(name, "--help").output
    assert "build" in run("--help").output


def test_help_needs_neither_torch_nor_the_extra():
    code = (
        "import sys\nfrom upscale.cli.main import cli\n"
        "try: cli.main(['humaneval', 'build', '--help'], prog_name='diffsr')\n"
        "finally: assert not {'torch', 'numpy', 'scipy', 'starlette'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("args", "missing"),
    [(["build", "--hr", "hr", "-o", "s"], "scipy"), (["serve", "s"], "uvicorn"),
     (["report", "s"], "matplotlib")],
)  # fmt: skip
def test_a_missing_extra_is_named(here, monkeypatch, args, missing):
    def found(name: str) -> object | None:
        return None if name == missing else object()

    monkeypatch.setattr(sys.modules["upscale.cli.options"], "find_spec", found)
    assert f"needs {missing}" in run(*args, code=2).told
    assert "pip install 'diffsr[humaneval]'" in run(*args, code=2).told


def test_serve_ends_with_ctrl_c_and_loads_no_torch(tmp_path):
    study = make_study(tmp_path / "study")
    with serving(study) as (link, process):
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text()
        host, port = link.removeprefix("http://").strip("/").split(":")
        taken = subprocess.run(
            [sys.executable, "-m", "upscale", "humaneval", "serve", str(study), "--no-browser",
             "--port", port], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert taken.returncode == 1 and "cannot listen there" in taken.stderr
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Stopped with 0 answers in" in (tmp_path / "serve.log").read_text()
    assert sorted(p.name for p in study.iterdir()) == ["pictures", "study.db"]


@pytest.mark.slow
def test_a_preview_is_walked_through_beside_the_study(tmp_path):
    study = make_study(tmp_path / "study", checks=3)
    before = (study / "study.db").read_bytes()
    with serving(study, "--preview") as (link, process):
        subject = Client(link)
        subject.go("enrol")
        assert subject.state["title"].startswith("Preview, nothing is stored")
        while subject.state["phase"] == "trial":
            subject.see()
            subject.answer("left")
        assert subject.state["done"] == 5  # a practice trial, two checks, two pairs
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Stopped with 5 answers thrown away" in (tmp_path / "serve.log").read_text()
    assert (study / "study.db").read_bytes() == before


def test_help_is_whole_sentences(here):
    *_, commands = run("--help").stdout.partition("Commands:")
    assert all(line.endswith(".") and "..." not in line for line in commands.split("\n") if line)
    assert "--port N " in run("serve", "--help").stdout


@pytest.mark.parametrize(("places", "told"), [(0, "0 places are"), (1, "1 place is")])
def test_places_are_counted(here, places, told):
    store = open_study(make_study(here / "study"))
    for _ in range(places):
        Sessions(store).enrol()
    store.close()
    assert f"{told} free again" in run("free", "study", "--minutes", 0).stderr


def test_serve_refuses_what_is_no_address(here):
    make_study(here / "study")
    assert "--tunnel" in run("serve", "study", "--tunnel", "lab", "--no-browser", code=2).told
