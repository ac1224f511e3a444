"""`diffsr ui` in a headless Chromium, with a stand-in for the model.

Skipped where there is no Chromium. SCREENSHOTS=DIR writes pictures of the page as docs/ui.md shows
it, with the real model.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn")
pytest.importorskip("playwright.sync_api")

from chromium import Visit, chromium
from test_ui import png, ui

pytestmark = pytest.mark.slow  # each starts a server and opens a page

SHOTS = os.environ.get("SCREENSHOTS")
WINDOW = {"width": 1280, "height": 960}
STEP = 0.15  # seconds of a step of the stand-in, which makes four
# where the pictures and the line are, in device pixels, and which part of each is seen
STAGE = """() => {
  const dpr = devicePixelRatio, frame = document.getElementById("stage").getBoundingClientRect();
  const found = {};
  for (const id of ["before", "after"]) {
    const image = document.getElementById(id), box = image.getBoundingClientRect();
    found[id] = {left: (box.left - frame.left) * dpr, top: (box.top - frame.top) * dpr,
                 width: box.width * dpr, height: box.height * dpr,
                 clip: getComputedStyle(image).clipPath, loaded: image.naturalWidth};
  }
  const line = document.getElementById("divider").getBoundingClientRect();
  found.line = ((line.left + line.right) / 2 - frame.left) / frame.width;
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as launch:
        launched = launch()
        yield launched
        launched.close()


@contextmanager
def served(folder: Path, **environment: str):
    """The link of a page; its results are in folder/out."""
    process, link = ui(folder, **{"FAKE_SLEEP": str(STEP), **environment})
    try:
        yield link, process
    finally:
        process.terminate()
        process.communicate(timeout=30)


class User(Visit):
    def __init__(self, browser, link: str, **settings) -> None:
        super().__init__(browser, link, **{"viewport": WINDOW, **settings})
        self.page.wait_for_selector("#options .option")

    def drop(self, *files: Path) -> None:
        """As from a folder's window onto the page."""
        sent = [[file.name, list(file.read_bytes())] for file in files]
        self.page.evaluate(
            """(files) => {
              const dataTransfer = new DataTransfer();
              for (const [name, bytes] of files) {
                dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
              }
              document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
            }""",
            sent,
        )
        self.lines(len(files))

    def lines(self, count: int, state: str = "") -> None:
        """Until the list has so many of that state."""
        what = f"#list li.{state}" if state else "#list li"
        self.until(f"document.querySelectorAll('{what}').length === {count}")

    def open(self, name: str) -> None:
        self.page.click(f"#list .look:has-text('{name}')")
        self.until(f"document.getElementById('title').textContent === '{name}'")

    def loaded(self) -> dict:
        """Where the pictures are, once both are there."""
        return self.until(f"(({STAGE})().before.loaded && ({STAGE})().after.loaded) && ({STAGE})()")

    def stage(self) -> dict:
        return self.page.evaluate(STAGE)

    def shoot(self, name: str, wait: float = 0.5) -> None:
        time.sleep(wait)
        self.page.screenshot(path=Path(SHOTS) / f"{name}.jpg", quality=88)

    def faults(self) -> list[str]:
        """What axe finds, of any weight."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page).response["violations"]
        return [f"{one['impact']}: {one['help']}: {one['nodes'][0]['html']}" for one in found]


def picture(path: Path, width: int = 40, height: int = 30) -> Path:
    path.write_bytes(png(width, height))
    return path


def test_a_tour(browser, tmp_path):
    """Drop, choose, enlarge, compare, save; a broken file and one of 100 megapixels among them."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(png()[:40])
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png")
    with served(tmp_path) as (link, _):
        user = User(browser, link)
        assert user.faults() == []
        user.drop(
            picture(tmp_path / "a.png"), broken, tmp_path / "huge.png", picture(tmp_path / "b.png")
        )
        user.page.fill("#scale-number", "3")
        assert "to be 120 × 90" in user.page.inner_text("#list li:first-child")
        assert user.page.inner_text("#start") == "Enlarge 4 pictures"
        user.page.click("#start")
        user.page.wait_for_selector("#list li.working progress[value]")
        assert user.faults() == []
        user.lines(2, "done")
        user.lines(2, "failed")
        assert user.page.inner_text("#status") == "2 done; 2 failed."
        refused = user.page.inner_text("#list li:nth-child(3)")
        assert (
            "10000 wide and 10000 high is 100 million pixels, more than the limit of 50" in refused
        )
        assert "broken.png: " in user.page.inner_text("#list li.failed:nth-child(2)")

        where = user.loaded()
        assert (where["before"]["width"], where["after"]["width"]) == (720, 720)  # 120, six times
        assert "120 x 90 pixels, 3 times" in user.page.inner_text("#facts")
        assert user.page.inner_text("#command").endswith("a_x3.png --scale 3")
        user.page.click("#save")
        user.until("document.getElementById('save').disabled")
        assert os.listdir(tmp_path / "out") == ["a_x3.png"]
        with user.page.expect_download() as found:
            user.page.click("#download")
        assert found.value.suggested_filename == "a_x3.png"
        assert Path(found.value.path()).read_bytes() == (tmp_path / "out/a_x3.png").read_bytes()
        user.page.click("#save-all")
        user.until("document.getElementById('save-all').disabled")
        assert sorted(os.listdir(tmp_path / "out")) == ["a_x3.png", "b_x3.png"]
        assert user.faults() == []

        user.page.reload()  # and nothing is lost
        user.lines(2, "done")
        assert user.page.input_value("#scale-number") == "3"
        assert user.page.inner_text("#title") == "a.png"
        other = user.tab(link.partition("?")[0])
        other.wait_for_selector("#list li.done:nth-child(4)")
        other.click("#list li.failed:nth-child(2) > button:not(.look)")  # Remove
        user.lines(3)
        assert user.problems == []
        assert all(url.startswith((link.partition("?")[0], "blob:")) for url in user.requests)


def test_before_and_after(browser, tmp_path):
    """The line by dragging, arrow keys and the slider; zoom to pixels of the screen; moving."""
    with served(tmp_path, FAKE_SLEEP="0") as (link, _):
        user = User(browser, link, device_scale_factor=2)
        page = user.page
        user.drop(picture(tmp_path / "a.png", 400, 300))
        page.click("#start")
        user.lines(1, "done")
        user.loaded()
        box = page.locator("#stage").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
        page.mouse.up()
        found = user.stage()
        assert found["line"] == pytest.approx(0.25, abs=0.005)
        left_of_it = found["line"] * box["width"] - found["after"]["left"] / 2  # in CSS pixels
        seen = float(found["after"]["clip"].split()[-1].partition("px")[0])  # inset(... px)
        assert seen == pytest.approx(left_of_it, abs=1)
        page.focus("#stage")
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert user.stage()["line"] == pytest.approx(0.35, abs=0.005)
        page.keyboard.press("End")
        assert user.stage()["line"] == pytest.approx(1)
        page.focus("#split")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert user.stage()["line"] == pytest.approx(0.01, abs=0.005)

        page.click("#pixels")
        found = user.stage()["after"]
        assert (found["width"], found["height"]) == (1600, 1200)  # of a screen of twice the density
        assert found["left"] == round(found["left"]) and page.inner_text("#zoom") == "100 %"
        page.focus("#stage")
        page.keyboard.press("+")
        larger = user.stage()["after"]
        assert larger["width"] == 3200
        page.keyboard.press("Shift+ArrowRight")
        assert user.stage()["after"]["left"] == pytest.approx(larger["left"] - 120, abs=1)
        page.mouse.move(box["x"] + 400, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + 350, middle + 20, steps=3)
        page.mouse.up()
        moved = user.stage()["after"]
        assert moved["left"] == pytest.approx(larger["left"] - 220, abs=2)
        assert moved["top"] == pytest.approx(larger["top"] + 40, abs=2)
        assert moved["left"] == user.stage()["before"]["left"]
        page.mouse.wheel(0, 100)
        user.until("document.getElementById('zoom').textContent === '100 %'")
        page.keyboard.press("0")
        assert user.stage()["after"]["width"] < 1600
        assert page.get_attribute("#fit", "aria-pressed") == "true"
        assert user.problems == []


def test_cancel_and_again(browser, tmp_path):
    with served(tmp_path, FAKE_SLEEP="0.6") as (link, _):
        user = User(browser, link)
        user.drop(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))
        user.page.click("#start")
        user.page.wait_for_selector("#list li.working progress[value]")
        begun = time.monotonic()
        user.page.click("#cancel-all")
        user.lines(2, "cancelled")
        assert time.monotonic() - begun < 2.2  # the rest would take 6.6 s more
        user.page.click("#again")
        user.lines(1, "done")
        user.page.click("#again")  # of a result: another line
        user.lines(3)
        assert not (tmp_path / "out/a_x4.png").exists()
        assert user.problems == []


def test_fifty_at_once(browser, tmp_path):
    """One broken, one of a single pixel, one of 16 bits."""
    files = [picture(tmp_path / f"{i}.png", 8, 6) for i in range(47)]
    files.append(picture(tmp_path / "one.png", 1, 1))
    deep = np.full((6, 8), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (tmp_path / "broken.png").write_bytes(png()[:40])
    files += [tmp_path / "deep.png", tmp_path / "broken.png"]
    with served(tmp_path, FAKE_SLEEP="0.01") as (link, _):
        user = User(browser, link)
        user.page.set_input_files("#files", [str(file) for file in files])
        user.lines(50, "ready")
        user.page.click("#start")
        user.until("/left/.test(document.getElementById('status').textContent)")
        user.lines(49, "done")
        user.lines(1, "failed")
        user.page.click("#save-all")
        user.until("document.getElementById('save-all').disabled")
        assert len(os.listdir(tmp_path / "out")) == 49
        assert user.page.inner_text("#status") == "49 done; 1 failed."
        assert user.problems == []


def test_by_the_keyboard_alone(browser, tmp_path):
    """From the top of the page, by Tab, Enter, Space and arrows."""
    with served(tmp_path, FAKE_SLEEP="0") as (link, _):
        user = User(browser, link)
        keys = user.page.keyboard

        def tab_to(selector: str) -> None:
            for _ in range(60):
                if user.page.evaluate("(what) => document.activeElement.matches(what)", selector):
                    return
                keys.press("Tab")
            raise AssertionError(f"Tab does not reach {selector}")

        with user.page.expect_file_chooser() as chooser:
            # what looks at the page on the way is answered after the listener is in place there:
            # a key sent at once may come before it
            tab_to("#files")
            keys.press("Enter")
        chooser.value.set_files(str(picture(tmp_path / "a.png")))
        user.lines(1)
        tab_to("#scale")
        keys.press("ArrowLeft")
        keys.press("ArrowLeft")
        tab_to("input[name=preset]")
        keys.press("ArrowDown")
        tab_to("#start")
        keys.press("Enter")
        user.lines(1, "done")
        tab_to("#list .look")
        keys.press("Space")
        tab_to("#stage")
        keys.press("ArrowLeft")
        assert user.loaded()["line"] == pytest.approx(0.48, abs=0.005)
        tab_to("#save")
        keys.press("Enter")
        user.until("document.getElementById('save').disabled")
        assert os.listdir(tmp_path / "out") == ["a_x3.png"]
        assert user.page.inner_text("#command").endswith("--scale 3 --preset fast")
        assert user.problems == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_on_a_phone(browser, tmp_path, scheme):
    """All fits its width, a finger moves the line, two fingers zoom."""
    phone = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 3, "has_touch": True,
             "is_mobile": True, "color_scheme": scheme}  # fmt: skip
    with served(tmp_path, FAKE_SLEEP="0") as (link, _):
        user = User(browser, link, **phone)
        user.page.set_input_files(
            "#files", [str(picture(tmp_path / ("a" * 60 + ".png"), 300, 400))]
        )
        user.lines(1)
        user.page.tap("#start")
        user.lines(1, "done")
        user.loaded()
        assert user.page.evaluate("document.documentElement.scrollWidth") == 360
        assert user.faults() == []
        box = user.page.locator("#stage").bounding_box()
        touch = user.context.new_cdp_session(user.page)

        def fingers(kind: str, *points: tuple[float, float]) -> None:
            at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"], "id": n}
                  for n, (x, y) in enumerate(points)]  # fmt: skip
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        user.page.locator("#stage").scroll_into_view_if_needed()
        box = user.page.locator("#stage").bounding_box()
        fingers("touchStart", (0.5, 0.5))
        fingers("touchMove", (0.7, 0.5))
        fingers("touchMove", (0.8, 0.5))
        fingers("touchEnd")
        assert user.stage()["line"] == pytest.approx(0.8, abs=0.01)
        before = user.stage()["after"]["width"]
        fingers("touchStart", (0.4, 0.5), (0.6, 0.5))
        fingers("touchMove", (0.3, 0.5), (0.7, 0.5))
        fingers("touchMove", (0.2, 0.5), (0.8, 0.5))
        fingers("touchEnd")
        assert user.stage()["after"]["width"] > before * 1.5
        assert user.problems == []


def test_a_server_that_is_gone_is_told(browser, tmp_path):
    with served(tmp_path) as (link, process):
        user = User(browser, link)
        process.terminate()
        user.until("/does not answer/.test(document.getElementById('notice').textContent)")


@pytest.mark.skipif(not SHOTS, reason="for the documentation: SCREENSHOTS=DIR")
def test_screenshots(browser, tmp_path):
    """As a new user takes the tour, with the bundled weights."""
    root = Path(__file__).parents[1]
    with Image.open(root / "examples/parrots.png") as image:
        image.save(tmp_path / "parrots.png")
        image.crop((100, 20, 180, 80)).save(tmp_path / "red.jpg", quality=40)
        image.crop((20, 40, 100, 120)).save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "blue.png").read_bytes()[:900])
    files = [tmp_path / name for name in ("parrots.png", "red.jpg", "broken.png", "blue.png")]
    program = [sys.executable, "-m", "upscale"]
    process, link = ui(Path(SHOTS), program=program)  # the page names its folder
    try:
        user = User(browser, link)
        user.shoot("start")
        user.drop(*files)
        user.shoot("ready")
        user.page.click("#start")
        user.page.wait_for_selector("#list li.working:nth-child(2)", timeout=180_000)
        user.shoot("working", wait=0.1)
        user.lines(3, "done")
        user.loaded()
        user.page.click("#save")
        user.until("document.getElementById('save').disabled")
        user.shoot("result")
        user.open("red.jpg")
        user.loaded()
        for _ in range(2):
            user.page.click("#in")
        user.shoot("zoomed")
        dark = User(browser, link, color_scheme="dark")
        dark.lines(3, "done")
        dark.loaded()
        dark.shoot("dark")
        phone = User(browser, link, viewport={"width": 390, "height": 844}, has_touch=True,
                     is_mobile=True, device_scale_factor=2)  # fmt: skip
        phone.loaded()
        phone.shoot("phone")
    finally:
        process.terminate()
        process.communicate(timeout=30)
