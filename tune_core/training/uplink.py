"""What a session and the experiment's driver say to each other, whatever carries it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from tune_core.states import Decision


class Report(NamedTuple):
    """One report on its way to the driver."""

    iteration: int
    row: dict[str, Any]
    checkpoint: int | None = None
    wants_decision: bool = False


class Message(NamedTuple):
    """What a trial sent: its kind, `hello`, `row`, `checkpoint` or `end`, and its content.

    `unreadable` is what could not be decoded; its content is the error.
    """

    trial_id: str
    attempt_number: int
    kind: str
    content: list[Any]


class Uplink(Protocol):
    """The way from a session to the experiment's driver and back."""

    def send(self, report: Report) -> None:
        """Hand a report over. Returns at once; order is kept; one that was handed over before is ignored.

        When this returns, the death of this process does not take it along.
        """

    def keep(self, report: Report) -> None:
        """Put a report that is sent later where the death of this process does not take it along."""

    def send_checkpoint(self, iteration: int, index: int) -> None:
        """Say that a checkpoint was committed after the report of that iteration. Returns at once.

        It is said before the attempt's last word, and until then again whenever it may have been lost.
        """

    def wait_for_decision(self, iteration: int) -> Decision:
        """Wait for the answer to the report of that iteration.

        Raises:
            ChannelLost: The driver is gone.
        """

    def wait_for_journal(self, iteration: int) -> None:
        """Wait until the rows up to that iteration are journaled.

        Raises:
            ChannelLost: The driver is gone.
        """

    def poll(self) -> bool:
        """Take in what has arrived; return whether the driver wants the trial to stop."""

    @property
    def wants_save(self) -> bool:
        """Whether the latest answer says that the trial is to save."""

    @property
    def stop_cause(self) -> str | None:
        """Why the driver wants the trial to stop: a `StopCause`, a `Decision`, "stale"; None while it does not."""

    @property
    def stop_rules(self) -> dict[str, float] | None:
        """The stop rules, if they were changed since the attempt began."""

    @property
    def journaled(self) -> int:
        """The highest iteration whose row is known to be in the journal."""
