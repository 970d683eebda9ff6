"""The way from a session to its driver, in one process: it keeps what it is sent and answers what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

from tune_core.states import Decision
from tune_core.training.uplink import Report

#: How long anything that happens in another thread may take, in seconds.
PATIENCE_S = 10.0


class FakeUplink:
    """Keeps what it is sent; answers, and stops the trial, as the test says."""

    wants_save = False

    def __init__(self) -> None:
        self.reports: list[Report] = []
        #: Iteration and index of each checkpoint that was committed after its report.
        self.checkpoints: list[tuple[int, int]] = []
        #: What was waited for: "decision" or "journal", and the iteration.
        self.waits: list[tuple[str, int]] = []
        self.journaled = 0
        #: Answers by iteration; CONTINUE where there is none.
        self.decisions: dict[int, Decision] = {}
        self.wants_stop = False
        self.stop_cause: str | None = None
        #: Causes to stop that are known once it is polled after so many reports.
        self.stops: dict[int, str] = {}
        self.stop_rules: dict[str, float] | None = None
        #: Stop rules that are known once it is polled.
        self.arriving: dict[str, float] | None = None
        self.on_send: Callable[[Report], None] = lambda report: None
        self._sent = threading.Condition()

    def send(self, report: Report) -> None:
        self.on_send(report)
        with self._sent:
            self.reports.append(report)
            self._sent.notify_all()

    def keep(self, report: Report) -> None:
        return  # this process does not die

    def send_checkpoint(self, iteration: int, index: int) -> None:
        self.checkpoints.append((iteration, index))

    def wait_for_decision(self, iteration: int) -> Decision:
        self.waits.append(("decision", iteration))
        return self.decisions.get(iteration, Decision.CONTINUE)

    def wait_for_journal(self, iteration: int) -> None:
        self.waits.append(("journal", iteration))
        self.journaled = iteration

    def poll(self) -> bool:
        self.stop_cause = self.stops.get(len(self.reports), self.stop_cause)
        if self.arriving is not None:
            self.stop_rules = self.arriving
        return self.wants_stop or self.stop_cause is not None

    def wait_for_reports(self, count: int) -> None:
        """Wait until so many reports were sent, by whatever thread."""
        with self._sent:
            assert self._sent.wait_for(lambda: len(self.reports) >= count, PATIENCE_S), self.sent

    @property
    def sent(self) -> list[tuple[int, int | None]]:
        """Iteration and checkpoint of each report."""
        return [(report.iteration, report.checkpoint) for report in self.reports]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The row of each report."""
        return [report.row for report in self.reports]

    def columns(self, *names: str) -> list[tuple[Any, ...]]:
        """Return the values of these metrics, a tuple for each report; None where a row has no such metric."""
        return [tuple(row.get(name) for name in names) for row in self.rows]

    def values_of(self, name: str) -> list[Any]:
        """Return the values of a metric in the rows that have it."""
        return [row[name] for row in self.rows if name in row]


class OnlyReports(FakeUplink):
    """Takes reports, which have their checkpoints with them; to be asked or told anything else is a defect."""

    def send_checkpoint(self, iteration: int, index: int) -> NoReturn:
        raise AssertionError(f"checkpoint {index} did not come with its report of iteration {iteration}")

    def wait_for_decision(self, iteration: int) -> NoReturn:
        raise AssertionError(f"nobody answers the report of iteration {iteration} here")

    def wait_for_journal(self, iteration: int) -> NoReturn:
        raise AssertionError(f"too few rows are sent here to wait for the journal: {iteration}")
