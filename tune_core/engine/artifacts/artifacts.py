"""Reports as Prefect artifacts: tables, a leaderboard, progress, the best checkpoint.

Artifacts are created once and updated in place. The loop hands over rows; a thread of its own
writes them, coalesced: what is first, last or best goes out at once, the rest at most every
few seconds. Every row gets into a table: the first of each trial into one that all trials share,
so that a short trial costs no request of its own, all of a longer trial into one of its own. A
failure to write never fails a trial: it is logged once, and what could not be written is tried
again with the next write.
"""

from __future__ import annotations

import contextvars
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.tasks import Task

from tune_core.engine.artifacts.tables import (
    ROWS_PER_VERSION,
    TRIAL,
    TrialRows,
    cell,
    encoded,
    reports_table,
    row_values,
    shortened,
    uniform,
)
from tune_core.engine.server.contact import Contact
from tune_core.engine.server.server import (
    before_own_server_stops,
    client_options,
    is_own_server,
    unlogged_requests,
)
from tune_core.engine.task_run_ends import TaskRunEnds, TaskRunState
from tune_core.metrics import flatten, lookup
from tune_core.ranking import Objective, Standings
from tune_core.trial import FINAL, Trial
from tune_core.views.pages import checkpoint_page

#: Least time between two writes of one artifact, in seconds, unless something is due at once.
INTERVAL_S = 5.0
#: The same for what is due at once: of a loss that falls with each report, every row is the best so far. A table
#: is written whole, so a long one waits longer, up to `INTERVAL_S`.
AT_ONCE_S = 1.0
#: Reports of a trial that are in the table of all trials. With one more it has a table of its own.
SHARED_REPORTS = 20
#: Trials on the leaderboard: V1's page of 200 takes a second longer than that of 100.
LEADERBOARD_ROWS = 100
#: Letters of a page; charts of 200 trials are a tenth of it.
PAGE_LETTERS = 1_000_000
#: How long `close` tries to get the last rows out, in seconds.
CLOSE_TIMEOUT_S = 60.0
#: How long a client tries one request again, in seconds: the writer tries again itself, with what is new by then.
TRIES_FOR_S = 5.0
logger = logging.getLogger("prefect.tune.artifacts")

_ENDED = frozenset(map(str, FINAL))


@dataclass(slots=True)
class _Document:
    """One artifact: what it should show, and what the server has of it."""

    name: str
    kind: str
    description: str
    data: Callable[[], Any]
    task_run_id: UUID | None = None
    #: By which it is looked up. To maintain a key costs the server about as much again.
    key: str | None = None
    artifact_id: UUID | None = None
    is_dirty: bool = False
    #: Nothing will be added: once it is written it can be forgotten.
    is_closed: bool = False
    #: Made without the lock, since that takes long and it has one of its own; least time between two, in seconds.
    page_every_s: float | None = None
    written: float = -math.inf
    due: float = 0.0

    def encoded(self, data: Any) -> Any:
        """Return its data as Prefect has it: a table as text."""
        return encoded(data) if self.kind == "table" else data


@dataclass(slots=True)
class _Table:
    """A table of reports, in its latest version."""

    rows: TrialRows = field(default_factory=TrialRows)
    document: _Document | None = None
    #: Whether there is a version before this one, which is full.
    is_continued: bool = False
    #: Of a trial's: how many of its rows are in the table of all trials.
    shared: int = 0

    @property
    def at_once_s(self) -> float:
        """Least time between two writes, in seconds, even of what is due at once, but for the last row."""
        share = 1.0 if self.is_continued else len(self.rows.rows) / ROWS_PER_VERSION
        return AT_ONCE_S + (INTERVAL_S - AT_ONCE_S) * share


class ArtifactWriter:
    """Writes the artifacts of one experiment.

    Args:
        experiment: The experiment's name; goes into keys.
        experiment_id: Is made a tag of the flow run: trial ids begin with it.
        flow_run_id: The flow run that they are linked to.
        flow_run_tags: The tags that it has.
        task: The task of the trials, for task runs that the server has never heard of.
        standings: What the leaderboard ranks by; None: nothing is compared.
        every_report: Write each report at once.
        contact: What is known of the server; None: nothing yet.
        clock: Monotonic seconds.

    Attributes:
        may_lose_states: Whether the process of a task run may have ended before the server was told how that ended.
    """

    def __init__(
        self,
        experiment: str,
        experiment_id: str,
        flow_run_id: UUID,
        flow_run_tags: Collection[str],
        task: Task[Any, Any],
        *,
        standings: Standings | None = None,
        every_report: bool = False,
        contact: Contact | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._flow_run_tags = slug(experiment), sorted({*flow_run_tags, experiment_id})
        self._flow_run_id = flow_run_id
        self._standings = standings or Standings(Objective())
        self._interval_s = 0.0 if every_report else INTERVAL_S
        self._clock = clock
        self._api_url = PREFECT_API_URL.value()
        self._contact = contact or Contact(self._api_url)
        self._ends = TaskRunEnds(flow_run_id, task, clock)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._documents: list[_Document] = []
        self._tables: dict[str, _Table] = {}
        self._shared = _Table()
        self._pages: dict[str, _Document] = {}
        #: The latest attempt of each trial.
        self._task_runs: dict[str, UUID] = {}
        self._leaders: dict[str, tuple[Trial, str]] = {}
        self._progress = 0.0
        self._best: tuple[tuple[str, str], ...] = ()
        self._states: list[TaskRunState] = []
        self._expected: dict[UUID, TaskRunState] = {}
        self.may_lose_states = False
        self._is_closing = False
        self._has_warned = False
        label = self._standings.objective.label
        order = f" by {label}" if label else ""
        if self._standings.objective.is_several:
            order += ", front 1 is what no other trial dominates; in a front by the first metric"
        which = f"those that have not ended, and the best others, {LEADERBOARD_ROWS} at most"
        description = f"Trials, best first{order}: {which}"
        self._leaderboard = self._document(
            "leaderboard", "table", description, self._leaderboard_data, has_key=True
        )
        self._bar = self._document("progress", "progress", "Finished trials", lambda: self._progress)
        self._link: _Document | None = None
        # In the run's context: the settings say which server it is.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._write_all,), name="tune-artifacts", daemon=True
        )
        self._thread.start()

    def begin_attempt(self, trial: Trial, task_run_id: UUID) -> None:
        """Link what the trial reports from now on to the task run of its new attempt."""
        with self._changed:
            self._task_runs[trial.trial_id] = task_run_id
            table = self._tables.setdefault(trial.trial_id, _Table())
            if table.document is not None:
                table.document.is_closed = True  # stays as it is; the new version begins with its rows
                table.rows = table.rows.copy()
                table.document = self._trial_document(trial, table.rows)

    def add_row(self, trial: Trial, row: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Add a report to the tables; `at_once` for the first, the last and the best.

        A report of a driver before this one waits for the trial's next attempt, whose table it is in. The
        leaderboard, which the trial is on, shows the latest too.
        """
        shown = row_values(row, trial.attempt_number)
        with self._lock:  # of `_changed`, which takes longer to enter
            self._touch(self._leaderboard, at_once=False)
            table = self._tables.setdefault(trial.trial_id, _Table())
            if trial.trial_id not in self._task_runs:
                if table.rows.is_full:  # these are a version of their own, which that driver has written
                    table.rows, table.is_continued = TrialRows(), True
                table.rows.add(shown)
                return
            if table.document is None and not table.is_continued and len(table.rows.rows) < SHARED_REPORTS:
                table.rows.add(shown)
                self._share(trial, table, at_once=at_once)
                return
            self._add_own(trial, table, shown)
            assert table.document is not None
            wait_s = AT_ONCE_S if row.get("done") else table.at_once_s
            self._touch(table.document, at_once=at_once or len(table.rows.rows) == 1, at_once_s=wait_s)

    def close_table(self, trial: Trial) -> None:
        """Write the rest of a finished trial's own table, if it has one, and forget its rows."""
        with self._changed:
            table = self._tables.pop(trial.trial_id, None)
            if table is not None and table.document is not None:
                table.document.is_closed = True

    def show_trial(self, trial: Trial, waits_for: str = "") -> None:
        """Put a trial on the leaderboard, and keep it there as it changes.

        Args:
            trial: Its record, which the writer reads when it writes.
            waits_for: Why it cannot start yet.
        """
        with self._changed:
            self._leaders[trial.trial_id] = (trial, waits_for)
            self._touch(self._leaderboard, at_once=False)

    def set_progress(self, percent: float) -> None:
        """Show how much of the experiment is over, 0 to 100."""
        with self._changed:
            if percent != self._progress or not self._bar.is_dirty:
                self._progress = percent
                self._touch(self._bar, at_once=percent >= 100)

    def show_page(
        self,
        name: str,
        description: str,
        render: Callable[[], str],
        *,
        every_s: float = 0.0,
        trial_id: str | None = None,
        has_key: bool = False,
    ) -> None:
        """Show a page of markdown; the writer's thread makes it again after each call.

        Args:
            name: Goes into its key, if it has one.
            description: Stands above it.
            render: Makes the page; called from the writer's thread.
            every_s: Least time between two versions of it, in seconds, unless the experiment ends.
            trial_id: Link it to the latest attempt of this trial, if it was in this run.
            has_key: Whether it is looked up by its name, and not in the flow run alone.
        """
        with self._changed:
            page = self._pages.get(name)
            if page is None:
                task_run_id = self._task_runs.get(trial_id or "")
                page = self._document(name, "markdown", description, render, task_run_id, has_key=has_key)
                page.page_every_s = every_s
                page.due = self._clock() + min(every_s, INTERVAL_S)  # there is something to show then
                self._pages[name] = page
            self._touch(page, at_once=False)

    def set_best_checkpoint(self, *found: tuple[str, str]) -> None:
        """Link the best trial's checkpoint; of several metrics, those of the best trial by each.

        Args:
            *found: Where it is; "": there is none, which is said only where another one was linked before. And
                what there is to say of it.
        """
        with self._changed:
            if found == self._best or (not any(url for url, _ in found) and self._link is None):
                return
            self._best = found
            if self._link is None:
                self._link = self._document(
                    "best-checkpoint", "markdown", "Checkpoint of the best trial", str, has_key=True
                )
            self._link.data = lambda: checkpoint_page(*found)
            self._touch(self._link, at_once=False)

    def force_state(self, run_name: str, task_run_id: UUID, state: State[Any]) -> None:
        """Set the state of a task run whose process cannot report it any more."""
        with self._changed:
            self.may_lose_states = True
            self._states.append(TaskRunState(run_name, task_run_id, state))
            self._changed.notify_all()

    def expect_state(self, run_name: str, task_run_id: UUID, state: State[Any]) -> None:
        """Take note of how a task run ended, which its process has told the server.

        `close` makes sure that the server knows, if that may have been lost.
        """
        with self._changed:
            self.may_lose_states = self.may_lose_states or state.is_crashed()
            plain = State(type=state.type, name=state.name, message=state.message, timestamp=state.timestamp)
            self._expected[task_run_id] = TaskRunState(run_name, task_run_id, plain)

    def close(self) -> None:
        """Write everything that is left, then stop; give up after `CLOSE_TIMEOUT_S`, or with the server."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        deadline = self._clock() + CLOSE_TIMEOUT_S
        while self._thread.is_alive() and self._clock() < deadline and self._contact.left_s > 0:
            self._thread.join(0.2)
        if self._thread.is_alive() and self._contact.left_s > 0:
            self._warn("the last artifacts could not be written in time")

    # With the lock held.

    def _document(
        self,
        name: str,
        kind: str,
        description: str,
        data: Callable[[], Any],
        task_run_id: UUID | None = None,
        *,
        has_key: bool = False,
    ) -> _Document:
        key = f"{self._prefix}-{name}" if has_key else None
        document = _Document(name, kind, description, data, task_run_id, key)
        self._documents.append(document)
        return document

    def _trial_document(self, trial: Trial, rows: TrialRows) -> _Document:
        description = shortened(f"Reports of {trial} ({trial.experiment_tag or 'no parameters varied'})")
        task_run_id = self._task_runs.get(trial.trial_id)
        name = f"trial-{trial.trial_id}"
        return self._document(name, "table", description, partial(_table_of, rows), task_run_id)

    def _share(self, trial: Trial, table: _Table, *, at_once: bool) -> None:
        """Add what is new of a trial's rows to the table of all trials."""
        shared = self._shared
        for row in table.rows.rows[table.shared :]:
            if shared.document is None or shared.rows.is_full:
                if shared.document is not None:
                    self._fill_up(shared.document)
                    shared.is_continued = True
                rows = shared.rows = TrialRows()
                description = f"Reports of all trials, the first {SHARED_REPORTS} of each"
                shared.document = self._document("reports", "table", description, partial(_table_of, rows))
            shared.rows.add({**row, TRIAL: trial.trial_id})
        assert shared.document is not None
        is_first = not table.shared
        table.shared = len(table.rows.rows)
        self._touch(shared.document, at_once=at_once or is_first, at_once_s=shared.at_once_s)

    def _add_own(self, trial: Trial, table: _Table, row: dict[str, Any]) -> None:
        """Add a row to a trial's own table, which is begun if there is none."""
        if table.document is None or table.rows.is_full:
            if table.document is not None:
                self._fill_up(table.document)
            if table.rows.is_full:
                table.rows, table.is_continued = TrialRows(), True
            table.document = self._trial_document(trial, table.rows)
            table.document.written = now = self._clock()  # its first rows come as no surprise
            table.document.due = now + self._interval_s
        table.rows.add(row)

    def _fill_up(self, document: _Document) -> None:
        """Write at once a version that is full: this is what it will always show."""
        self._touch(document, at_once=True, at_once_s=0.0)
        document.is_closed = True

    def _touch(self, document: _Document, *, at_once: bool, at_once_s: float = AT_ONCE_S) -> None:
        now = self._clock()
        before = document.due if document.is_dirty else math.inf
        if not document.is_dirty:
            document.is_dirty = True
            document.due = max(document.due, now)
        if at_once:
            document.due = min(document.due, max(now, document.written + at_once_s))
        if self._interval_s == 0 and document.page_every_s is None:
            document.due = now
        if document.due < before:
            self._changed.notify_all()

    def _leaderboard_data(self) -> list[dict[str, Any]]:
        leaders: Iterable[tuple[Trial, str]] = self._leaders.values()
        key = self._standings.keys()
        if self._standings.objective.names:
            leaders = sorted(leaders, key=lambda leader: key(leader[0]))
        entries = [self._entry(trial, waits_for, key(trial)[0]) for trial, waits_for in leaders]
        places = LEADERBOARD_ROWS - sum(entry["status"] not in _ENDED for entry in entries)
        shown = []
        for entry in entries:
            if entry["status"] in _ENDED:
                places -= 1
            if entry["status"] not in _ENDED or places >= 0:
                shown.append(entry)
        return uniform(shown[:LEADERBOARD_ROWS])

    def _entry(self, trial: Trial, waits_for: str, front: float) -> dict[str, Any]:
        row, objective = trial.last_row, self._standings.objective
        score: dict[str, Any] = {}
        if objective.is_several:
            score["front"] = "" if math.isinf(front) else int(front) + 1
        columns = zip(objective.names, objective.columns, self._standings.scores(trial), strict=False)
        for name, column, known in columns:
            value = lookup(row, name) if objective.scope == "last" else None
            score[column] = cell(known if value is None else value)
        return {
            "trial": trial.trial_id,
            "status": f"{trial.status} ({waits_for})" if waits_for else str(trial.status),
            **score,
            "iterations": trial.iteration,
            "attempts": trial.attempt_number,
            "seconds": round(row.get("time_total_s", 0.0), 2),
            **{f"config/{name}": cell(value) for name, value in flatten(trial.config).items()},
            "error": shortened(trial.error or ""),
        }

    # In the writer's thread.

    def _write_all(self) -> None:
        try:
            # The server answers with what it was sent, and would take longer to compress that than to send it.
            options = self._contact.options({"Accept-Encoding": "identity"}, tries_for_s=TRIES_FOR_S)
            with get_client(sync_client=True, httpx_settings=options) as client:
                self._tag_flow_run(client)
                self._write_until_closed(client)
                if self.may_lose_states or self._contact.was_lost:
                    self._ends.settle(client, self._expected)
        except Exception as error:  # noqa: BLE001 - artifacts must never fail an experiment
            self._failed("artifacts are not written any more", error)
        if is_own_server(self._api_url):
            before_own_server_stops(self._wait_until_recorded)

    def _wait_until_recorded(self) -> None:
        """Return when a server that is about to end has recorded how task runs ended."""
        assert self._api_url is not None
        options = client_options(self._api_url)
        with (
            unlogged_requests(self._api_url),
            SyncPrefectClient(self._api_url, httpx_settings=options) as client,
        ):
            self._ends.settle(client, self._expected)

    def _tag_flow_run(self, client: SyncPrefectClient) -> None:
        """Let the flow run be found by what trial ids begin with.

        By an update, since tags of the flow's context are those of its task runs too: for each of
        these Prefect asks the server, twice, whether there is a concurrency limit for its tags.
        """
        try:
            client.update_flow_run(self._flow_run_id, tags=self._flow_run_tags)
        except Exception as error:  # noqa: BLE001 - artifacts must never fail an experiment
            self._failed("cannot tag the flow run", error)

    def _write_until_closed(self, client: SyncPrefectClient) -> None:
        deadline = math.inf
        while True:
            with self._changed:
                now = self._clock()
                if self._is_closing and deadline == math.inf:
                    deadline = now + CLOSE_TIMEOUT_S
                dirty = [document for document in self._documents if document.is_dirty]
                due = dirty if self._is_closing else [each for each in dirty if each.due <= now]
                states, self._states = self._states, []
                if not due and not states:
                    if self._is_closing:
                        return
                    wake = min((document.due for document in dirty), default=now + 60.0)
                    self._changed.wait(max(0.01, wake - now))
                    continue
                work = [(each, None if each.page_every_s is not None else each.data()) for each in due]
                for document in due:
                    document.is_dirty, document.written = False, now
                    every_s = document.page_every_s
                    document.due = now + (self._interval_s if every_s is None else every_s)
            failed = [*self._put_states(client, states), *self._put_documents(client, work)]
            if failed and (self._clock() > deadline or self._contact.left_s <= 0):
                return
            if failed:
                with self._changed:
                    self._changed.wait(1.0)

    def _put_documents(self, client: SyncPrefectClient, work: Sequence[tuple[_Document, Any]]) -> list[Any]:
        failed = []
        for document, data in self._drawn(work):
            try:
                self._put(client, document, data)
            except Exception as error:  # noqa: BLE001 - tried again with the next write
                self._failed(f"cannot write the artifact {document.name!r}, training goes on", error)
                with self._changed:
                    document.is_dirty, document.due = True, self._clock() + INTERVAL_S
                failed.append(document)
        with self._changed:
            self._documents = [
                document for document in self._documents if document.is_dirty or not document.is_closed
            ]
        return failed

    def _drawn(self, work: Sequence[tuple[_Document, Any]]) -> Iterator[tuple[_Document, Any]]:
        for document, data in work:
            if document.page_every_s is None:
                yield document, document.encoded(data)
                continue
            try:
                yield document, _no_longer(document.data())
            except Exception:  # to try again would lead to the same
                logger.exception("the page %r cannot be made, training goes on", document.name)

    def _put(self, client: SyncPrefectClient, document: _Document, data: Any) -> None:
        # Not by the client's own methods: each sends an event more, with all the data in it, and raises, when the
        # artifact has been written already, if that makes an event that Prefect does not take.
        if document.artifact_id is not None:
            path: Any = "/artifacts/{id}"
            changed = ArtifactUpdate(data=data).model_dump(mode="json", exclude_unset=True)
            client.request("PATCH", path, json=changed, path_params={"id": document.artifact_id})
        else:
            created = self._creation(document, data).model_dump(mode="json", exclude_unset=True)
            document.artifact_id = UUID(client.request("POST", "/artifacts/", json=created).json()["id"])

    def _creation(self, document: _Document, data: Any) -> ArtifactCreate:
        return ArtifactCreate(
            key=document.key,
            type=document.kind,
            description=document.description,
            data=data,
            flow_run_id=self._flow_run_id,
            task_run_id=document.task_run_id,
        )

    def _put_states(self, client: SyncPrefectClient, forced: Sequence[TaskRunState]) -> list[Any]:
        failed = []
        for item in forced:
            try:
                self._ends.force(client, item)
            except Exception as error:  # noqa: BLE001 - tried again with the next write
                self._failed(f"cannot set task run {item.run_name} to {item.state.name}", error)
                failed.append(item)
        if failed:
            with self._changed:
                self._states = [*failed, *self._states]
        return failed

    def _failed(self, what: str, error: Exception) -> None:
        if isinstance(error, httpx.TransportError):
            self._contact.lost(error)
        else:
            self._warn(f"{what}: {error}")

    def _warn(self, message: str) -> None:
        logger.log(logging.DEBUG if self._has_warned else logging.WARNING, message)
        self._has_warned = True


def slug(name: str) -> str:
    """Return a name in the letters that artifact keys may have.

    Example:
        >>> slug("Train_Digits 2")
        'train-digits-2'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "experiment"


def _table_of(rows: TrialRows) -> list[dict[str, Any]]:
    return reports_table(rows.rows)


def _no_longer(page: str) -> str:
    """Return a page that no configuration of a hundred thousand parameters makes too long for its reader."""
    if len(page) <= PAGE_LETTERS:
        return page
    return f"{page[:PAGE_LETTERS]}\n\n… ({len(page):,} letters, which are too many to show)\n"
