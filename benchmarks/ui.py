"""How Prefect's UI copes with an experiment of 200 trials: seconds to its pages, and kB of database.

Runs the experiment on a local Ray and a Prefect server of its own (SQLite), then opens its pages in
headless Chromium, in both UIs: the flow run's page until its name and its tabs can be used, and the
leaderboard until its best trial is read. A page is opened five times, with a profile as users have one,
so that the UI's scripts are in the browser's caches; the figure is the median of the last three.
`--shots DIR` keeps snapshots of the pages. Exits with 1 if one takes longer than its limit.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed will do

NUM_CPUS = 4
#: Most seconds that each page may take.
LIMITS_S = {"flow run": 5.0, "leaderboard": 2.0}
#: Where the UIs are, below the server's address.
UIS = {"V1": "", "V2": "/v2"}
#: How often each page is opened, and how many of the first times do not count: Chromium keeps and compiles scripts
#: that come again.
VISITS, WARM_UP = 5, 2
#: How long a page is waited for, in seconds.
PAGE_TIMEOUT_S = 60.0


def train(config: dict[str, Any]) -> None:
    """Learn nothing, in five reports that look as if."""
    import tune_core as tune

    for step in range(1, 6):
        distance = abs(math.log10(config["lr"]) + 3) / 3 + {"relu": 0.0, "tanh": 0.2}[config["activation"]]
        tune.report({"loss": distance + math.exp(-step), "accuracy": 1 - distance / 4})


def tune_it(name: str, num_trials: int, storage: str) -> Any:
    """Run the experiment; return its results."""
    import tune_core as tune

    tuner = tune.Tuner(
        train,
        param_space={
            "lr": tune.loguniform(1e-6, 1e-1),
            "activation": tune.choice(["relu", "tanh"]),
            "dropout": tune.uniform(0, 0.5),
        },
        tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=num_trials),
        run_config=tune.RunConfig(name=name, storage_path=storage, verbose=0),
    )
    return tuner.fit()


def database_kb(home: Path) -> float:
    """Return the size of the server's database, with what is in its write-ahead log taken in."""
    file = home / "prefect.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.stat().st_size / 1000


def flow_run_id(api_url: str, name: str) -> str:
    """Return the id of the experiment's flow run."""
    import httpx

    asked = {"flow_runs": {"name": {"any_": [name]}}}
    answer = httpx.post(f"{api_url}/flow_runs/filter", json=asked, timeout=30).raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return str(found[0]["id"])


def artifact(api_url: str, run_id: str, description: str) -> dict[str, Any]:
    """Return the latest artifact of a flow run whose description begins like this."""
    import httpx

    asked = {"flow_runs": {"id": {"any_": [run_id]}}, "sort": "CREATED_DESC", "limit": 200}
    answer = httpx.post(f"{api_url}/artifacts/filter", json=asked, timeout=30).raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return next(each for each in found if str(each["description"]).startswith(description))


class Browser:
    """Headless Chromium that measures, and takes snapshots.

    Args:
        playwright: What `sync_playwright()` yields.
        profile: Directory of its profile, where compiled scripts are kept.
        server: The server's address.
        shots: Where snapshots go; None: none are taken.
    """

    def __init__(self, playwright: Any, profile: Path, server: str, shots: Path | None) -> None:
        executable = next(
            (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), None
        )
        self._context = playwright.chromium.launch_persistent_context(
            profile, executable_path=executable, args=["--no-sandbox"]
        )
        self._server, self._shots = server, shots

    def close(self) -> None:
        """End it."""
        self._context.close()

    def open(
        self, ui: str, path: str, ready: Callable[[Any], None], shot: str = "", height: int = 900
    ) -> float:
        """Open a page in a new tab; return the seconds until `ready` has seen what it waits for."""
        page = self._context.new_page()
        page.set_viewport_size({"width": 1440, "height": height})
        page.set_default_timeout(PAGE_TIMEOUT_S * 1000)
        began = time.monotonic()
        page.goto(f"{self._server}{UIS[ui]}{path}", wait_until="commit")
        ready(page)
        took = time.monotonic() - began
        if self._shots is not None and shot:
            page.wait_for_load_state("networkidle")
            page.screenshot(path=str(self._shots / f"{shot}-{ui.lower()}.png"))
        page.close()
        return took


def tab_can_be_used(name: str) -> Callable[[Any], None]:
    """Wait until a flow run's page shows its name, and its Artifacts tab can be selected."""

    def ready(page: Any) -> None:
        page.get_by_text(name).first.wait_for()
        # V1's tabs are items of a list, V2's are buttons.
        page.locator("[role=tablist] >> text=Artifacts").click()

    return ready


def shows(text: str) -> Callable[[Any], None]:
    """Wait until a page shows a text."""
    return lambda page: page.get_by_text(text).first.wait_for()


def shows_images(count: int) -> Callable[[Any], None]:
    """Wait until so many images of a page are there, with their sizes."""

    def ready(page: Any) -> None:
        page.wait_for_function(
            "count => [...document.querySelectorAll('img')]"
            ".filter(img => img.src.startsWith('data:image/svg') && img.naturalWidth > 0).length >= count",
            arg=count,
        )

    return ready


def look(server: str, name: str, shots: Path | None) -> dict[str, float]:
    """Open every page in both UIs; return the seconds that each took."""
    from playwright.sync_api import sync_playwright

    api_url = f"{server}/api"
    run_id = flow_run_id(api_url, name)
    leaders = artifact(api_url, run_id, "Trials, best first")
    best = json.loads(leaders["data"])[0]["trial"]
    charts, summary, reports, curve = (
        artifact(api_url, run_id, said)["id"]
        for said in ("Charts", "Summary", "Reports of all", "Learning curve")
    )
    flow_run, of_artifact = f"/runs/flow-run/{run_id}", "/artifacts/artifact"
    pages: list[tuple[str, str, Callable[[Any], None], int]] = [
        ("flow run", flow_run, tab_can_be_used(name), 900),
        ("leaderboard", f"{of_artifact}/{leaders['id']}", shows(best), 900),
        ("charts", f"{of_artifact}/{charts}", shows_images(5), 2000),
        ("summary", f"{of_artifact}/{summary}", shows("Best trial"), 1400),
        ("reports", f"{of_artifact}/{reports}", shows("training_iteration"), 900),
        ("trial's chart", f"{of_artifact}/{curve}", shows_images(1), 900),
    ]
    took: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="prefect-tune-browser-") as profile,
        sync_playwright() as playwright,
    ):
        browser = Browser(playwright, Path(profile), server, shots)
        try:
            for ui in UIS:
                for title, path, ready, height in pages:
                    shot = title.replace("'s ", "-").replace(" ", "-")
                    visits = [browser.open(ui, path, ready, shot, height) for _ in range(VISITS)]
                    took[f"{ui} {title}"] = statistics.median(visits[WARM_UP:])
        finally:
            browser.close()
    return took


def main() -> int:
    """Measure, print, and return 1 if a page takes too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--shots", type=Path, help="a directory for snapshots")
    arguments = parser.parse_args()
    if arguments.shots:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prefect-tune-ui-") as place:
        home = Path(place, "home")
        os.environ["PREFECT_HOME"] = str(home)
        os.environ.pop("PREFECT_API_URL", None)
        import ray

        from tune_core.engine.server.server import start_own_server, stop_own_server

        ray.init(num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False)
        try:
            server = start_own_server()
            os.environ["PREFECT_API_URL"] = server.api_url
            name = f"ui-{uuid.uuid4().hex[:6]}"
            before, began = database_kb(home), time.monotonic()
            tune_it(name, arguments.trials, str(Path(place, "results")))
            took_s = time.monotonic() - began
            time.sleep(5)  # events are written in batches
            growth = (database_kb(home) - before) / arguments.trials
            print(
                f"{arguments.trials} trials of 5 reports in {took_s:.1f} s; database {growth:.1f} kB per trial"
            )
            took = look(server.api_url.removesuffix("/api"), name, arguments.shots)
        finally:
            stop_own_server()
            ray.shutdown()
    is_slow = False
    for page, seconds in took.items():
        limit = LIMITS_S.get(page[3:])
        is_slow = is_slow or (limit is not None and seconds > limit)
        print(f"{page:22s} {seconds:5.2f} s" + (f"  (limit {limit:g} s)" if limit else ""))
    return int(is_slow)


if __name__ == "__main__":
    sys.exit(main())
