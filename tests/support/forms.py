"""Forms of Prefect's UIs, filled in in a real browser as somebody without Python would."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
#: A field's box: of V1, and of V2.
_BOX = (
    "xpath=ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')"
    " or contains(concat(' ', @class, ' '), ' group ')][1]"
)
#: Marks of tests that use a page.
in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
    # Playwright's loop is of its own, and closes what it has after pytest looks.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def browser_page() -> Iterator[playwright.Page]:
    """A page of Chromium. Playwright has an event loop in it: what Prefect does then, it does as a coroutine."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1250, "height": 1000})
        page.set_default_timeout(60_000)
        # Fonts and statistics of the pages: names that a machine without internet waits for.
        page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
        yield page
        browser.close()


def box(where: playwright.Locator, name: str, number: int = 0) -> playwright.Locator:
    label = where.locator("label").filter(has_text=re.compile(rf"^\s*{name}( \(Optional\))?\s*$"))
    return label.nth(number).locator(_BOX)


def write(where: playwright.Locator, name: str, value: str, number: int = 0) -> None:
    box(where, name, number).locator("fieldset").first.locator("input, textarea").first.fill(value)


def choose(where: playwright.Locator, name: str, option: str, number: int = 0) -> None:
    """Press the tab of a choice."""
    box(where, name, number).get_by_text(option, exact=True).first.click()


def select(page: playwright.Page, name: str, option: str, ui: str) -> None:
    """Take a value from a list that opens; V1's is not in the page that a script sees, but listens to keys."""
    chosen = box(page.locator("body"), name).locator("fieldset").first
    opens = chosen.locator("button:not([role=tab])").first  # a field of several kinds has tabs, too
    opens.click()
    if ui == "v2":
        page.locator("[role=option]").filter(has_text=option).first.click()
        return
    for steps in range(1, 6):
        for _ in range(steps):
            page.keyboard.press("ArrowDown", delay=50)
        page.keyboard.press("Enter", delay=50)
        try:
            chosen.get_by_text(option, exact=True).first.wait_for(timeout=1000)
        except playwright.TimeoutError:
            opens.click()  # it was another one
        else:
            return
    raise AssertionError(f"{name} cannot be set to {option}: {chosen.inner_text()!r}")


def submit(page: playwright.Page) -> UUID:
    """Press Submit; return the id of the flow run that the server has made of the form."""
    with page.expect_response(lambda response: response.url.endswith("/create_flow_run")) as answer:
        page.get_by_role("button", name="Submit").click()
    made = answer.value
    assert made.ok, f"the form was refused: {made.text()}"
    return UUID(made.json()["id"])


def snapshot(page: playwright.Page, name: str) -> None:
    """Keep a screenshot, if asked to: `SCREENSHOTS=docs/images pytest …`."""
    directory = os.environ.get("SCREENSHOTS")
    if directory:
        page.screenshot(path=Path(directory) / f"{name}.png")
