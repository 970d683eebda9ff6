"""An uplink that keeps what it is sent and answers what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tune_core.states import Decision
from tune_core.training.uplink import Report


class FakeUplink:
    """A driver that notes everything and answers what the test says."""

    wants_save = False

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.decisions: dict[int, Decision] = {}
        self.wants_stop = False
        self.journaled = 0
        self.waits: list[tuple[str, int]] = []
        self.stop_cause: str | None = None
        self.stop_rules: dict[str, float] | None = None
        self.checkpoints: list[tuple[int, int]] = []
        self.on_send: Callable[[Report], None] = lambda report: None

    def send(self, report: Report) -> None:
        self.on_send(report)
        self.reports.append(report)

    def keep(self, report: Report) -> None:
        return

    def send_checkpoint(self, iteration: int, index: int) -> None:
        self.checkpoints.append((iteration, index))

    def wait_for_decision(self, iteration: int) -> Decision:
        self.waits.append(("decision", iteration))
        return self.decisions.get(iteration, Decision.CONTINUE)

    def wait_for_journal(self, iteration: int) -> None:
        self.waits.append(("journal", iteration))
        self.journaled = iteration

    def poll(self) -> bool:
        return self.wants_stop

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [report.row for report in self.reports]
