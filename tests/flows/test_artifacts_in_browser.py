"""What an experiment's artifacts look like in both of Prefect's UIs, whatever its values and errors are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.forms import browser_page, in_browser, playwright, snapshot

pytestmark = in_browser

PIPE, TAG, LINK, LONG = (
    "a | b || c",
    "<b>bold</b><img src=x>",
    "[here](https://elsewhere.example)",
    "long " * 400,
)


def train(config: dict[str, Any]) -> None:
    tune.report({"loss": 1.0, "pipe": PIPE, "tag": TAG, "link": LINK, "long": LONG})
    if config["fails"]:
        raise ValueError(f"{PIPE} {TAG} {LINK}")


def shown(page: playwright.Page) -> str:
    """What is to be read in a page; a word joiner has no width."""
    return str(page.locator("body").inner_text()).replace("\u2060", "")


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_values_and_errors_are_shown_as_they_are_and_are_nothing_but_text(
    ui: str, run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], api: str
) -> None:
    config = run_config()
    space = {"fails": tune.grid_search([False, True]), "tag": TAG, "pipe": PIPE}
    tune.Tuner(train, param_space=space, tune_config=tune.TuneConfig("min", "loss"), run_config=config).fit()
    seen = recorded(config.name).artifacts()
    root = api.removesuffix("/api") + ("/v2" if ui == "v2" else "")

    for key, texts in (
        ("reports", (PIPE, TAG, LINK, "(2,000 letters)")),
        ("leaderboard", (PIPE, TAG)),
        ("summary", (PIPE, TAG, LINK)),
    ):
        with browser_page() as page:
            page.goto(f"{root}/artifacts/artifact/{seen[key].id}", wait_until="commit")
            page.get_by_text("bold", exact=False).first.wait_for()
            snapshot(page, f"artifact-{key}-{ui}")
            for text in texts:
                assert text in shown(page), f"{key}: {text!r} is not in {shown(page)[:3000]!r}"
            assert page.locator("b").filter(has_text="bold").count() == 0
            assert page.locator("img[src=x]").count() == 0
            # A URL in an error may be one; what hides where it leads may not.
            assert page.locator("a").filter(has_text=re.compile("^here$")).count() == 0
