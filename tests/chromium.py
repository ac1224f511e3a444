"""A headless Chromium of the system for the tests of pages, which skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update"]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """Yields a function that starts one with more arguments."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)
        if found is None:
            pytest.skip("no Chromium is installed")
        yield lambda *more: playwright.chromium.launch(
            executable_path=found, args=[*ARGUMENTS, *more], timeout=90_000
        )


class Visit:
    """Somebody at a window: keeps what the page asked for and complained of."""

    def __init__(self, browser: Any, link: str, *, script: str = "", **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(60_000)
        if script:
            self.context.add_init_script(script)
        self.requests: list[str] = []
        self.problems: list[str] = []
        self.page = self.tab(link)

    def tab(self, link: str) -> Any:
        """One more tab of this browser."""
        page = self.context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._heard)
        page.goto(link)
        return page

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def until(self, expression: str) -> Any:
        """Its value, once that is true."""
        # a function: the page's policy forbids to evaluate text, and rightly so
        return self.page.wait_for_function(f"() => {expression}", polling=30).json_value()
