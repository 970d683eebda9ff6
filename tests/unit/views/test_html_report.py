"""The HTML report: whole, self-contained, and harmless."""

from __future__ import annotations

import builtins
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.snapshots import searched, snapshot, trial
from tune_core.logger.failures import Failure
from tune_core.ranking import Objective
from tune_core.testing.local_runtime import LocalRuntime
from tune_core.views import html_report

pytest.importorskip("plotly", reason="the extra `report` is not installed")


class Elements(HTMLParser):
    """What a browser would find."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_report_holds_every_chart_and_every_trial_and_loads_nothing() -> None:
    shown = searched(30)

    page = html_report.report_page(shown, "my_tuning", "s3://bucket/my_tuning")

    elements = Elements(page).found
    assert [attributes for tag, attributes in elements if tag == "script" and "src" in attributes] == []
    assert [tag for tag, _ in elements if tag in ("link", "img", "iframe")] == []
    assert sum("plotly-graph-div" in (attributes.get("class") or "") for _, attributes in elements) == 5
    assert sum(tag == "tr" for tag, _ in elements) == 1 + 1 + 1 + 30
    for text in (
        "Best so far",
        "Learning curves of the 30 best trials",
        "Importance",
        "Parameters of all",
        "Timeline",
    ):
        assert text in page


def test_what_users_name_is_text_in_the_report() -> None:
    evil = "</script><script>alert(1)</script>"
    shown = searched(12)
    trials = [
        replace(each, config={evil: each.config["lr"]}, experiment_tag=evil, error=evil)
        for each in shown.trials
    ]

    page = html_report.report_page(
        replace(
            shown,
            trials=trials,
            objective=Objective(evil, "min"),
            reason=evil,
            failures=[Failure(evil, evil, evil, f'File "{evil}", line 1')],
        ),
        evil,
        evil,
    )

    assert "<script>alert" not in page


def test_failures_are_grouped_by_their_cause() -> None:
    trace = 'Traceback (most recent call last):\n  File "/home/me/train.py", line 7, in train\nValueError: {}'
    failures = [
        Failure(f"t{n}", f"dir_{n}", f"ValueError: <b>{n}</b> & more", trace.format(n)) for n in range(3)
    ]
    failures.append(Failure("t9", "dir_9", "KeyError: 'x'", ""))

    page = html_report.report_page(replace(searched(12), failures=failures), "n", "s3://bucket/n")

    part = page.partition("<h2>Failures</h2>")[2].partition("</table>")[0]
    cells = [re.findall("<td>(.*?)</td>", row) for row in part.split("<tr>")[2:]]
    first, second = "s3://bucket/n/dir_0/error.txt", "s3://bucket/n/dir_9/error.txt"
    error = "ValueError: &lt;b&gt;0&lt;/b&gt; &amp; more (and 2 other texts)"
    assert cells == [
        ["3", error, "/home/me/train.py:7", "t0", first],
        ["1", "KeyError: &#x27;x&#x27;", "", "t9", second],
    ]
    assert "<h2>Failures</h2>" not in html_report.report_page(searched(12), "n", "n")


def test_experiment_without_metric_or_attempts_has_a_report() -> None:
    nothing = snapshot(trial(0, None, {}, timeline=[]), objective=Objective(), held=None, has_ended=False)

    page = html_report.report_page(nothing, "n", "/tmp/n")

    assert "It had not ended." in page
    assert "plotly-graph-div" not in page


def test_report_is_written_beside_the_results(tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"score": config["x"]})

    experiment = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1, 2])},
        tune_config=tune.TuneConfig(metric="score", mode="max"),
        run_config=tune.RunConfig(name="written", storage_path=str(tmp_path), verbose=0),
    ).experiment()
    LocalRuntime().run(experiment)

    for _ in range(2):  # again: it replaces the one before
        where = html_report.write_report(experiment.storage)

    assert where == str(tmp_path / "written" / "report.html")
    assert "<h1>written</h1>" in Path(where).read_text()


def test_without_plotly_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def without_plotly(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return import_module(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_plotly)

    with pytest.raises(ImportError, match=re.escape("pip install 'prefect-tune[report]'")):
        html_report.report_page(searched(3), "n", "/tmp/n")
