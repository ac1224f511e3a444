"""`diffsr ui` without a browser: what may be asked, the queue, saving, who may come in."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_fake import FakeUpscaler
from humaneval_study import Client, make_study
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from starlette.testclient import TestClient
from test_cli import run

import upscale.cli.upscale.command as upscaling
from upscale.batch.files import Files
from upscale.cli.main import explained
from upscale.errors import UsageError
from upscale.pipeline.request import Request, Setup
from upscale.ui import server
from upscale.ui.entry import WAITING, Entry
from upscale.ui.facts import facts
from upscale.ui.pictures import Pictures
from upscale.ui.wishes import SHOWN, Wish, form

KEY = "key"
BYTES = {"Content-Type": "application/octet-stream"}


def png(width: int = 6, height: int = 5, **how) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, how.pop("format", "PNG"), **how)
    return file.getvalue()


class Page:
    """What the page's script does, over the real application with a stand-in for the model."""

    def __init__(self, folder: Path, make=None, wish: Wish | None = None) -> None:
        (folder / "tmp").mkdir()
        self.made: list[Setup] = []
        self.said: list[str] = []

        def note(setup: Setup):
            self.made.append(setup)
            return (make or FakeUpscaler)()

        self.output = folder / "out"
        self.pictures = Pictures(folder / "tmp", self.output, note, explained, self.said.append)
        app = server.application(
            self.pictures, wish or Wish(), access=KEY, hosts=frozenset({"testserver"}),
            say=self.said.append,
        )  # fmt: skip
        self.browser = TestClient(app)
        assert self.browser.get(f"/?access={KEY}").status_code == 200

    def add(self, name: str, data: bytes) -> int:
        told = self.browser.post("/api/add", params={"name": name}, content=data, headers=BYTES)
        assert told.status_code == 200, told.text
        return told.json()["number"]

    def post(self, name: str, numbers: list[int], code: int = 200, **more) -> dict:
        told = self.browser.post(f"/api/{name}", json={"numbers": numbers, **more})
        assert told.status_code == code, told.text
        return told.json()

    def start(self, *numbers: int, code: int = 200, **values) -> list[int]:
        told = self.post("start", list(numbers), code, values=values)
        return told["numbers"] if code == 200 else told["error"]

    def lines(self) -> dict[int, dict]:
        return {one["number"]: one for one in self.browser.get("/api/state").json()["entries"]}

    def until(self, *states: str) -> dict[int, dict]:
        """The lines, once all are in one of these states."""
        for _ in range(2000):
            lines = self.lines()
            if all(one["state"] in states for one in lines.values()):
                return lines
            time.sleep(0.005)
        raise AssertionError(lines)


@pytest.fixture
def page(tmp_path):
    made = Page(tmp_path)
    yield made
    made.pictures.close()


class Held(FakeUpscaler):
    """Waits after its first step until it may go on."""

    stepped, go = threading.Event(), threading.Event()

    def run(self, plan, picture, *, on_step=None, **how):
        def step(done: int, of: int) -> None:
            on_step(done, of)
            if done == 1:
                self.stepped.set()
                assert self.go.wait(20)

        return super().run(plan, picture, on_step=step, **how)


@pytest.fixture
def held(tmp_path):
    Held.stepped.clear()
    Held.go.clear()
    made = Page(tmp_path, Held)
    yield made
    Held.go.set()
    made.pictures.close()


# --- what may be asked --------------------------------------------------------------------------


def test_the_form_is_what_the_records_say():
    told = {one["name"]: one for one in form(Wish())}
    assert tuple(told) == SHOWN
    assert (told["scale"]["least"], told["scale"]["most"], told["scale"]["default"]) == (1, 16, 4)
    assert told["preset"]["choices"] == ("fast", "balanced", "best")
    assert told["domain"]["choices"] == ("photo", "face") and told["domain"]["default"] == "photo"
    rule = Request.__dataclass_fields__["denoise"].metadata["asked"]
    assert (told["denoise"]["help"], told["denoise"]["most"]) == (rule.help, rule.most)
    named = form(Wish(Setup(weights="ecdp-photo", domain="face")))
    assert not {"domain", "input"} & {one["name"] for one in named}


@pytest.mark.parametrize(
    "values",
    [
        {"scale": 2.5},
        {"size": [1000, 333], "scale": 4},
        {"preset": "best", "domain": "face", "input": "real", "denoise": 0.25, "scale": 8},
        {"denoise": 0, "scale": None},
    ],
)
def test_the_command_asks_for_the_same(monkeypatch, tmp_path, values):
    """It is read by the parser of `diffsr upscale`, and gives the records that the page used."""
    base = Wish(
        Setup(method="sr3", device="cpu"),
        files=Files(format="webp", quality=80, strip=True, max_pixels=400_000_000),
    )
    wish = base.with_values(values)
    found = {}

    def job(make, setup, request, files):
        found["wish"] = Wish(setup, request, files)
        raise UsageError("seen")

    monkeypatch.setattr(upscaling, "Job", job)
    words = shlex.split(wish.command("-o dd's.png", str(tmp_path / "an other/-o.webp")))
    assert words[:2] == ["diffsr", "upscale"]
    assert "seen" in run(*words[1:], code=2).told
    assert found["wish"] == wish


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"scale": 17}, "--scale must be from 1 to 16, not 17"),
        ({"scale": "4"}, "--scale cannot be '4'"),
        ({"scale": True}, "--scale cannot be True"),
        ({"size": [0, 5]}, "--size cannot be"),
        ({"size": [5]}, "--size cannot be"),
        ({"preset": "quick"}, "no preset 'quick'; choose from fast, balanced, best"),
        ({"domain": "cats"}, "cats"),
        ({"denoise": 1.5}, "--denoise must be from 0 to 1"),
        ({"tile": 0}, "no option tile"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(page, values, why):
    number = page.add("a.png", png())
    assert why in page.start(number, code=400, **values)
    assert page.lines()[number]["state"] == "ready"


def test_a_report_in_words():
    record = {
        "size_in": (64, 48), "size_out": (256, 192), "scale": 4.0, "method": "ecdp",
        "weights": "ecdp-photo", "taken_for": "real", "denoise": 0.5, "sampler": "ddim", "steps": 2,
        "nfe": 1, "seed": 0, "consistency": 100.0, "lr_psnr": 30.0, "seconds": 4.12,
        "device": "cpu", "notes": ["look twice"],
    }  # fmt: skip
    assert facts(record) == [
        ("Size", "48 x 64 to 192 x 256 pixels, 4 times"),
        ("Weights", "ecdp-photo, for real input, cleaned with a strength of 0.5"),
        ("Sampling", "ddim, 2 steps, 1 call of the network, seed 0"),
        ("Agreement", "shrunk again, it differs from the input by 8.1 of 255 grey levels "
                      "(root mean square; 30.0 dB)"),
        ("Time", "4.1 s on cpu"),
        ("Note", "look twice"),
    ]  # fmt: skip


# --- the queue ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "how", "values"),
    [
        ("in.png", {}, {"scale": 2}),
        ("in.jpg", {"format": "JPEG", "quality": 60}, {"scale": 3}),
        ("in.webp", {"format": "WEBP", "lossless": True}, {"size": [13, 17]}),
    ],
)
def test_what_is_saved_is_what_the_command_writes(page, tmp_path, monkeypatch, name, how, values):
    data = png(**how)
    number = page.add(name, data)
    page.start(number, **values)
    line = page.until("done")[number]
    (saved,) = page.post("save", [number])["saved"]
    monkeypatch.setattr(upscaling, "make_upscaler", lambda setup, ends, fetching: FakeUpscaler())
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    Path(saved).rename("page")
    run(*shlex.split(line["command"])[1:])  # as it is shown, into the same folder
    assert Path(saved).read_bytes() == Path("page").read_bytes()
    shown = page.browser.get(f"/picture/{number}/file")
    assert shown.content == Path("page").read_bytes()
    assert f'filename="{Path(saved).name}"' in shown.headers["content-disposition"]
    assert page.browser.get(f"/picture/{number}/before").content == data


@pytest.mark.slow
def test_with_the_real_weights_it_is_the_same_file_too(tmp_path, monkeypatch):
    page = Page(tmp_path, lambda: upscaling.make_upscaler(page.made[-1], False, print))
    source = Path(__file__).parent / "data/ex_p0.png"
    with Image.open(source) as image:
        image.crop((0, 0, 20, 16)).save(tmp_path / "in.png")
    number = page.add("in.png", (tmp_path / "in.png").read_bytes())
    for values in ({"scale": 2, "denoise": 0.5}, {"scale": 4, "preset": "fast", "input": "clean"}):
        (again,) = page.start(number, **values)
        line = page.until("done")[again]
        (saved,) = page.post("save", [again])["saved"]
        data = Path(saved).read_bytes()
        Path(saved).unlink()
        monkeypatch.chdir(tmp_path)
        run(*shlex.split(line["command"])[1:])
        assert Path(saved).read_bytes() == data
    page.pictures.close()


def test_fifty_at_once(page):
    """One is broken, one has a single pixel, one 16 bits: 49 results, and why there is not one
    more. One model makes them all."""
    deep = np.full((4, 4), 40_000, np.uint16)
    file = io.BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    several = [("broken.png", png()[:50]), ("one.png", png(1, 1)), ("deep.png", file.getvalue())]
    several += [(f"{i}.png", png(3, 2)) for i in range(47)]
    numbers = [page.add(*one) for one in several]
    page.start(*numbers, scale=2)
    lines = page.until("done", "failed")
    (failed,) = [one for one in lines.values() if one["state"] == "failed"]
    assert failed["name"] == "broken.png" and failed["error"].startswith("broken.png: ")
    assert str(page.pictures.folder) not in failed["error"]
    assert len(page.post("save", numbers)["saved"]) == 49 == len(os.listdir(page.output))
    with Image.open(page.output / "deep_x2.png") as image:
        assert image.mode == "I;16" and image.size == (8, 8)
    with Image.open(page.output / "one_x2.png") as image:
        assert image.size == (2, 2)
    assert len(page.made) == 1 and page.pictures.unsaved() == 0


def test_another_domain_takes_the_place_of_the_model(page):
    number = page.add("a.png", png())
    for domain in ("photo", "photo", "face"):
        page.start(number, domain=domain)
        page.until("done")
    assert [setup.domain for setup in page.made] == ["photo", "face"]
    # a result is never replaced: each has a line of its own
    assert len(page.lines()) == 3


def test_cancelling_ends_within_a_step_and_leaves_nothing(held):
    first, second = held.add("a.png", png()), held.add("b.png", png())
    held.start(first, second)
    assert Held.stepped.wait(20)
    line = held.lines()[first]
    assert (line["state"], line["done"], line["of"]) == ("working", 1, 4)
    assert "left" in held.browser.get("/api/state").json()
    held.post("cancel", [first, second])
    Held.go.set()
    lines = held.until("cancelled")
    assert [one["done"] for one in lines.values()] == [1, 0]
    assert held.pictures.unsaved() == 0 and not os.listdir(held.pictures.folder / "1/result")
    held.start(first, second)  # and it goes on after that
    assert len(held.until("done")) == 2


def test_a_thousand_pictures_are_looked_at_and_cleared_at_once(page):
    """Nothing is found out anew for each picture and look, nor compared with every other."""
    wish = Wish()
    for number in range(1, 1001):
        path = page.pictures.folder / str(number) / "a.png"
        page.pictures._entries[number] = Entry(number, "a.png", path, (5, 6), wish, WAITING)
    begun = time.perf_counter()
    for _ in range(40):
        page.pictures.state(1)
    page.pictures.remove(range(1, 1001))
    assert time.perf_counter() - begun < 2 and page.lines() == {}


def test_a_second_look_is_told_what_changed_alone(page):
    first, second = page.add("a.png", png()), page.add("b.png", png())
    told = page.browser.get("/api/state").json()
    assert [one["number"] for one in told["entries"]] == [first, second] == told["numbers"]
    page.start(second)
    page.until("done", "ready")
    later = page.browser.get("/api/state", params={"since": told["change"]}).json()
    assert [one["number"] for one in later["entries"]] == [second]
    page.post("remove", [first])
    assert page.browser.get("/api/state").json()["numbers"] == [second]
    assert not (page.pictures.folder / str(first)).exists()
    assert page.post("save", [first], code=400)["error"] == "this picture is no longer in the list"


def test_saving_takes_a_free_name_and_counts_what_is_there(page):
    page.output.mkdir()
    (page.output / "a_x2.png").write_bytes(b"somebody's")
    first, second = page.add("a.png", png()), page.add("a.png", png(7))
    page.start(first, second, scale=2)
    page.until("done")
    names = [Path(one).name for one in page.post("save", [first, second])["saved"]]
    assert names == ["a_2_x2.png", "a_3_x2.png"]
    assert (page.output / "a_x2.png").read_bytes() == b"somebody's"
    assert shlex.split(page.lines()[first]["command"])[4] == str(page.output / "a_2_x2.png")
    (again,) = page.start(first, scale=2)
    page.until("done")
    assert page.post("save", [again])["saved"] == [str(page.output / "a_2_x2.png")]  # same bytes
    assert len(os.listdir(page.output)) == 3


def test_results_outlive_the_line_that_they_were_made_from(page):
    first = page.add("a.png", png())
    page.start(first)
    page.until("done")
    (second,) = page.start(first, scale=2)
    page.until("done")
    page.post("remove", [first])
    assert page.browser.get(f"/picture/{second}/before").content == png()
    assert page.browser.get(f"/picture/{second}/after").status_code == 200
    page.post("remove", [second])
    assert os.listdir(page.pictures.folder) == []


def test_a_temporary_folder_that_is_gone_is_told(page):
    """Some systems empty it."""
    number = page.add("a.png", png())
    page.start(number)
    page.until("done")
    shutil.rmtree(page.pictures.folder)
    told = [page.browser.get(f"/picture/{number}/{which}") for which in ("before", "after", "file")]
    told.append(page.browser.post("/api/save", json={"numbers": [number]}))
    told.append(page.browser.post("/api/add?name=b.png", content=png(), headers=BYTES))
    told.append(page.browser.post("/api/start", json={"numbers": [number], "values": {}}))
    assert {answer.status_code for answer in told} == {507}
    why = f"{page.pictures.folder}, the folder of pictures not saved: No such file or directory"
    assert {answer.json()["error"] for answer in told} == {why}


@pytest.mark.parametrize(
    ("limit", "values", "why"),
    [
        (20, {}, "the limit of 2e-05; if you trust the file, raise it with --max-pixels"),
        (100, {"scale": 4}, "the result would have 0.00048 million pixels, more than the limit of "
                            "0.0001; choose a smaller size"),
    ],
)  # fmt: skip
def test_too_many_pixels_are_refused_with_the_reason(tmp_path, limit, values, why):
    page = Page(tmp_path, wish=Wish(files=Files(max_pixels=limit)))
    number = page.add("a.png", png())
    page.start(number, **values)
    assert why in page.until("failed")[number]["error"]
    page.pictures.close()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", ".._.._etc_passwd"),
        ("a\\b.png", "a_b.png"),
        ("..", "picture"),
        ("", "picture"),
        ("\0\n.png", "__.png"),
        ("é" * 150 + ".png", "picture.png"),
    ],
)
def test_a_name_stays_in_its_folder(page, name, kept):
    number = page.add(name, png())
    assert page.lines()[number]["name"] == kept
    assert os.listdir(page.pictures.folder) == ["1"] and os.listdir(page.pictures.folder / "1") == [
        kept
    ]


def test_a_picture_that_browsers_do_not_know_is_shown_as_png(page):
    number = page.add("a.tif", png(format="TIFF"))
    page.start(number, scale=2)
    line = page.until("done")[number]
    assert "a_x2.tif" in line["command"]
    for which, size in [("before", (6, 5)), ("after", (12, 10))]:
        shown = page.browser.get(f"/picture/{number}/{which}")
        assert shown.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(shown.content)) as image:
            assert image.size == size
    text = page.add("a.html", b"<html><script>alert(1)</script></html>")
    assert page.browser.get(f"/picture/{text}/before").status_code == 422


# --- who may come in ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_before_and_after_stand_upright(page, format):
    """Whatever the browser thinks of the tag: Chromium turns JPEG and PNG by it, but no WebP."""
    tags = Image.Exif()
    tags[0x112] = 6
    number = page.add(f"a.{format.lower()}", png(format=format, exif=tags))
    assert page.lines()[number]["size"] == [6, 5]
    page.start(number, scale=2)
    assert page.until("done")[number]["size_out"] == [12, 10]
    told = page.browser.get(f"/picture/{number}/before")
    with Image.open(io.BytesIO(told.content)) as shown:
        turned = told.headers["content-type"] in ("image/jpeg", "image/avif")
        assert shown.size == ((6, 5) if turned else (5, 6))


def test_without_the_link_nothing_is_answered(page):
    stranger = TestClient(page.browser.app)
    for path in ("/", "/page.js", "/api/state", "/picture/1/before", "/?access=guess"):
        assert stranger.get(path).status_code == 403, path
    assert stranger.post("/api/start", json={}).status_code == 403
    assert page.browser.get("/api/state", headers={"Host": "evil.example"}).status_code == 400
    assert any("no access" in line for line in page.said)


def test_another_site_cannot_use_the_page(page):
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
        asked = {"json": {"numbers": [], "values": {}}, "headers": headers}
        sent = {"content": png(), "headers": {**BYTES, **headers}}
        for name, how in [("add", sent), ("start", asked)]:
            assert page.browser.post(f"/api/{name}", **how).status_code == 403
    form = page.browser.post("/api/add", content=png(), headers={"Content-Type": "text/plain"})
    assert form.status_code == 415
    assert page.lines() == {} and os.listdir(page.pictures.folder) == []


def test_a_file_that_is_too_large_is_not_kept(page, monkeypatch):
    monkeypatch.setattr(server, "MOST_UPLOAD", 1000)
    told = page.browser.post("/api/add?name=a.png", content=b"0" * 1001, headers=BYTES)
    assert told.status_code == 413
    assert told.json()["error"] == "more than 1000 bytes, which is the limit"  # behind a name
    assert os.listdir(page.pictures.folder) == []


def test_thousands_of_pictures_are_asked_for_at_once(page):
    """Their numbers alone are more than other pages send."""
    number = page.add("a.png", png())
    assert page.start(*[number] * 5000, scale=2) == [number]
    page.until("done")
    assert len(page.post("save", [number] * 5000)["saved"]) == 5000
    page.post("cancel", [number] * 5000)
    page.post("remove", [number])
    assert page.post("remove", [number] * 5000, code=400)["error"].endswith("in the list")


@pytest.mark.parametrize("numbers", [None, "1", [True], [1.0], {"1": 1}])
def test_what_is_no_list_of_numbers_is_refused(page, numbers):
    for name in ("start", "cancel", "save", "remove"):
        assert (
            page.browser.post(f"/api/{name}", json={"numbers": numbers, "values": {}}).status_code
            == 400
        )


def test_the_page_asks_for_nothing_outside(page):
    told = page.browser.get("/")
    assert "unsafe" not in told.headers["content-security-policy"]
    folder = Path(server.__file__).parent / "page"
    assert {path.name for path in folder.iterdir()} == {"page.html", "page.css", "page.js"}
    for file in folder.iterdir():
        text = file.read_text("utf-8")
        assert "http" not in text.replace("HTTPS", "") and "url(" not in text
        assert "style=" not in text and "onclick=" not in text and "innerHTML" not in text


# --- the command --------------------------------------------------------------------------------


def ui(
    folder: Path, program: list[str] | None = None, **environment: str
) -> tuple[subprocess.Popen, str]:
    """`diffsr ui` as a process, and its link. program: `diffsr`, or one with a stand-in for the
    model."""
    program = program or [sys.executable, str(Path(__file__).with_name("cli_fake.py"))]
    env = {k: v for k, v in os.environ.items() if not k.startswith("DIFFSR_")}
    env |= {"TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[1]), **environment}
    process = subprocess.Popen(
        [*program, "ui", "--no-browser", "--port", "0", "-o", str(folder / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        # as a terminal starts it, also where these tests run under nohup
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    link = process.stdout.readline().decode().strip()
    assert link.startswith("http://127.0.0.1:"), process.stderr.read()
    return process, link


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_stopped_in_the_middle_nothing_is_half_written(tmp_path, end):
    process, link = ui(tmp_path, FAKE_SLEEP="0.2")
    try:
        client = Client(link)
        assert client.request("GET", "/?" + link.partition("?")[2])[0] == 303
        told = client.request(
            "POST", "/api/add?name=a.png", png(), Content_Type="application/octet-stream"
        )
        number = json.loads(told[2])["number"]
        assert client.post("start", numbers=[number], values={})[0] == 200
        while True:
            told = json.loads(client.request("GET", "/api/state")[2])["entries"][0]
            if told["state"] == "working" and told["done"]:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(end)
        said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == (-end if end == signal.SIGKILL else 0), said
    assert os.listdir(tmp_path / "out") == []
    if end != signal.SIGKILL:  # also where the terminal is closed
        assert "a.png: cancelled" in said and not list(tmp_path.glob("diffsr-ui-*"))


@pytest.fixture
def begun(monkeypatch):
    """What the pages got that were begun, none of which anybody visits."""
    from upscale.web import listener

    pages = []
    monkeypatch.setattr(server, "application", lambda *given, **how: pages.append((*given, how)))
    monkeypatch.setattr(listener, "serve", lambda *args, **how: None)
    return pages


def test_the_page_has_one_method(tmp_path, begun):
    run("ui", "--no-browser", "-o", str(tmp_path), "--method", "bicubic")
    assert [wish.setup.method for _, wish, _ in begun] == ["bicubic"]
    run("ui", "--no-browser", "-o", str(tmp_path), "--method", "bicubic,sr3", code=2)


def test_two_pages_at_once_do_not_shut_each_other_out(tmp_path, begun):
    """Their cookies are of one host, whatever the port."""
    for port in ("0", "0", "8001", "8002"):
        run("ui", "--no-browser", "-o", str(tmp_path), "--port", port)
    assert len({how["cookie"] for _, _, how in begun}) == 4


@pytest.mark.parametrize("output", ["-", "s3://bucket/large"])
def test_results_are_saved_in_a_folder(output, begun):
    assert "in a folder of this machine" in run("ui", "-o", output, code=2).told
    assert not begun


def test_weights_of_another_folder_are_named_whole(tmp_path, monkeypatch):
    """The command is typed where the picture is."""
    monkeypatch.chdir(tmp_path)
    Path("own.safetensors").touch()
    wish = Wish(Setup(weights="own.safetensors"), files=Files(max_pixels=9))  # a lower limit
    words = shlex.split(wish.command("a.png", "b.png"))
    assert words[-2:] == ["--weights", str(tmp_path / "own.safetensors")]


def test_what_is_missing_is_named(monkeypatch):
    missing = lambda name: None if name == "uvicorn" else SimpleNamespace()  # noqa: E731
    monkeypatch.setattr(sys.modules["upscale.cli.options"], "find_spec", missing)
    assert "pip install 'diffsr[ui]'" in run("ui", code=2).told


def test_a_result_that_was_not_saved_is_not_thrown_away(tmp_path, monkeypatch):
    from upscale.web import listener

    def visit(app, host, port, *, access, tunnel, ready):
        ready("http://link/")
        page = TestClient(app, base_url="http://localhost")
        assert page.get(f"/?access={access}").status_code == 200
        page.post("/api/add?name=a.png", content=png(), headers=BYTES)
        page.post("/api/start", json={"numbers": [1], "values": {}})
        while page.get("/api/state").json()["entries"][0]["state"] != "done":
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(listener, "serve", visit)
    monkeypatch.setattr(upscaling, "make_upscaler", lambda setup, ends, fetching: FakeUpscaler())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run("ui", "--no-browser", "-o", str(tmp_path / "out"))
    assert result.stdout == "http://link/\n"
    (kept,) = tmp_path.glob("diffsr-ui-*/1/result/a_x4.png")
    assert f"1 result not saved; look in {kept.parents[2]}" in result.stderr


@pytest.mark.parametrize("page", ["ui", "humaneval"])
def test_the_page_is_answered_while_the_browser_is_open(tmp_path, monkeypatch, page):
    """Those in a terminal, and whatever BROWSER names, return once they are closed."""
    from upscale.web import listener

    order, closed, over = [], threading.Event(), threading.Event()

    def browse(link: str) -> None:
        closed.wait(0.5)
        order.append(link)
        over.set()

    def visit(*args, ready, **how):
        ready("http://link/")
        order.append("served")
        closed.set()

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr(listener, "serve", visit)
    if page == "ui":
        run("ui", "-o", str(tmp_path))
    else:
        run("humaneval", "serve", str(make_study(tmp_path / "study")))
    assert over.wait(5) and order == ["served", "http://link/"]


def test_the_wish_of_the_page_is_the_default_of_the_command():
    assert Wish().with_values({}) == replace(Wish(), request=Request())
