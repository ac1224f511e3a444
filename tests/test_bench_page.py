"""The HTML report: what is in it, that nothing is fetched, and that it works in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium

from upscale.bench import page, published
from upscale.bench.crops import busiest, cuts
from upscale.bench.protocol import make_lr

pytestmark = pytest.mark.packaged

METHODS = ("bicubic", "lanczos", "regression", "sr3", "ecdp")
EVIL = "</script><img src=x onerror=alert(1)>.png"


def report_of(methods=METHODS, steps=(1, 2, 4, 8), names=("a.png", "b.png", EVIL)) -> str:
    """A page of made-up rows: every method at every step count on every picture."""
    rng = np.random.default_rng(0)
    rows, shown = [], {}
    for name in names:
        hr = rng.random((40, 48, 3)).astype(np.float32)
        lr, hr = make_lr(hr, 4)
        for m, method in enumerate(methods):
            for n in steps:
                sr = np.clip(hr + rng.normal(0, 0.05, hr.shape), 0, 1).astype(np.float32)
                shown[len(rows)] = cuts(sr, hr, lr, 4, 32)
                rows.append({
                    "dataset": "made", "picture": name, "method": method, "weights": "w",
                    "sampler": "ddim", "steps": n, "nfe": n, "scale": 4.0, "kernel": "bicubic",
                    "psnr_y": 25.0 + m - n / 10 + rng.normal(), "lpips": 0.3 - m / 50 + n / 100,
                    "seconds": 0.1 * n, "border": 4, "versions": "diffsr 0",
                    "treatment": ["grey: so"] if name == names[0] else [],
                })  # fmt: skip
    rows.append({"picture": "bad.png", "method": "sr3", "error": "bad.png: truncated"})
    rows[0]["psnr_y"] = float("inf")
    chosen = published.choose("div2k-4x", "", ())
    return page.to_html(rows, shown, chosen, "made")


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1], parse_constant=pytest.fail)


def test_the_page_holds_every_number_and_needs_no_other_file() -> None:
    text = report_of()
    data = data_of(text)
    assert len(data["trials"]) == 20 and len(data["pictures"]) == 3
    assert data["pictures"][2]["name"] == EVIL and EVIL not in text
    first = data["pictures"][0]
    assert first["rows"]["0"]["psnr_y"] is None and len(first["rows"]) == len(first["cuts"]) == 20
    assert data["failed"] == ["sr3: bad.png: truncated"]
    changes = data["differences"]
    assert len(changes) == 19 * 2 and {row["against"] for row in changes} == {"bicubic, 1 step"}
    assert ["grey", "grey: so (1 of 3 pictures)"] in data["protocol"]
    assert data["published"][0]["source"].startswith("ECDP") and data["published"][0]["protocol"]
    assert ["Input made by", "bicubic"] in data["protocol"]
    mean, low, high = data["trials"][19]["means"]["lpips"]
    assert low <= mean <= high
    static = text.partition("<script")[0]
    addresses = re.findall(r'(?:src|href)\s*=\s*["\']?([^"\'\s>)]+)', static)
    assert addresses and all(a.startswith("data:") for a in addresses)
    assert "default-src 'none'" in text and "url(" not in text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


def test_cuts_are_lossless_and_of_the_busiest_place() -> None:
    import base64
    import io

    from upscale.image.decode import read

    hr = np.full((96, 120, 3), 0.5, np.float32)
    hr[40:60, 72:100] = np.random.default_rng(0).random((20, 28, 3))
    lr, hr = make_lr(hr, 4)
    rows, columns = busiest(hr, lr, 32, 4)
    assert rows.start <= 40 and rows.stop >= 60 and columns.start <= 72 and columns.stop >= 100
    assert rows.start % 4 == columns.start % 4 == 0
    found = cuts(hr, hr, lr, 4, 32)
    assert found["sr"].shape == found["hr"].shape == (32, 32, 3) and found["lr"].shape == (8, 8, 3)
    url = page._url(found["hr"])
    again = read(io.BytesIO(base64.b64decode(url.partition(",")[2]))).rgb
    assert (np.round(again * 255) == found["hr"]).all()
    assert cuts(hr, hr, lr, 4, 500)["hr"].shape == hr.shape
    assert cuts(hr[:90, :111], hr[:90, :111], lr, 3.7, 32)["hr"].shape == (32, 32, 3)


def test_of_many_pictures_the_best_and_the_worst_are_shown() -> None:
    names = [f"{i}.png" for i in range(40)]
    pictures = data_of(report_of(("bicubic",), (1,), names))["pictures"]
    assert len(pictures) == 40 and sum("cuts" in p for p in pictures) == page.MOST_SHOWN


@pytest.fixture(scope="module")
def browser():
    with chromium() as launch:
        started = launch()
        yield started
        started.close()


@pytest.mark.slow
def test_the_page_works_in_a_browser(browser, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(report_of(), encoding="utf-8")
    tab, said, asked = browser.new_page(), [], []
    tab.set_default_timeout(60000)
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "report.html").as_uri())
    tab.wait_for_function("document.querySelector('#under').naturalWidth > 0")

    def column(index: int) -> list[str]:
        return tab.eval_on_selector_all(
            f"#means tbody td:nth-child({index})",
            "cells => cells.map(c => c.firstChild.textContent)",
        )

    heads = tab.eval_on_selector_all("#means th", "cells => cells.map(c => c.textContent)")
    lpips = heads.index("LPIPS (alex)") + 1
    before = column(lpips)
    tab.click(f"#means th:nth-child({lpips}) button")
    rising = column(lpips)
    assert rising == sorted(before, key=float) != before and len(rising) == 20
    assert tab.get_attribute(f"#means th:nth-child({lpips})", "aria-sort") == "ascending"
    tab.click(f"#means th:nth-child({lpips}) button")
    assert column(lpips) == rising[::-1]

    def left_of_line() -> float:
        return float(
            tab.evaluate("parseFloat(document.querySelector('#line').style.left.slice(5))")
        )

    assert left_of_line() == 50
    tab.focus("#slider")
    for _ in range(10):
        tab.keyboard.press("ArrowRight")
    assert left_of_line() == 55 and "45%" in tab.evaluate("over.style.clipPath")
    tab.locator("#pair").scroll_into_view_if_needed()
    box = tab.locator("#pair").bounding_box()
    tab.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 5)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 5)
    tab.mouse.up()
    assert left_of_line() == pytest.approx(20, abs=1)
    assert box["width"] == 32 * 4
    tab.select_option("#zoom", "8")
    tab.wait_for_function("document.querySelector('#under').width === 256")
    tab.select_option("#left", "lr")
    assert tab.evaluate("over.naturalWidth") in (8, 32)  # may still be the old one
    tab.wait_for_function("over.naturalWidth === 8 && over.width === 256")
    assert tab.locator("#differences tbody tr").count() == 19
    assert "better" in tab.inner_text("#differences")
    assert tab.locator("#plots svg").count() == 3
    # one mean is infinite, and the published have no PSNR-Y: they are not in this plot
    assert tab.locator("#plots svg:nth-child(1) circle").count() == 19
    tab.select_option("#number", "seconds")
    assert tab.locator("#every tbody tr").count() == 3
    assert tab.locator("#cases figure").count() == 3  # of three pictures none is best and worst
    assert tab.locator("#failed li").inner_text() == "sr3: bad.png: truncated"
    assert said == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
