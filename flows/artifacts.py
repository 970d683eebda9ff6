"""Reports as Prefect artifacts: a table per trial, a leaderboard, progress, the best checkpoint.

Artifacts are created once and updated in place. The loop hands over rows; a thread of its own
writes them, coalesced: what is first, last or best goes out at once, the rest at most every
few seconds. Every row gets into its trial's table. A failure to write never fails a trial: it
is logged once, and what could not be written is tried again with the next write.
"""

from __future__ import annotations

import contextvars
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    TaskRunFilter,
    TaskRunFilterId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, State
from prefect.context import TagsContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL
from prefect.states import Running
from prefect.tasks import Task

from flows.server import BULK_ARTIFACTS, COUNT_TASK_RUNS, client_options, is_own_server
from flows.tables import cell, encoded, row_values, trial_table, uniform
from tune_core.metrics import flatten, lookup
from tune_core.pages import checkpoint_page
from tune_core.trial import FINAL, Trial

#: Least time between two writes of one artifact, in seconds, unless something is due at once.
INTERVAL_S = 5.0
#: The same for what is due at once: of a loss that falls with each report, every row is the best so far. A table
#: is written whole, so a long one waits longer, up to `INTERVAL_S`.
AT_ONCE_S = 1.0
#: How long a new artifact waits for others, in seconds, if the server writes many with one request.
GATHER_S = 0.5
#: And so many at most, or so many letters: the server does nothing else meanwhile.
_TOGETHER, _LETTERS_TOGETHER = 100, 500_000
#: Rows of one version of a trial's table; then the next version begins.
ROWS_PER_VERSION = 1000
#: Trials on the leaderboard: V1's page of 200 takes a second longer than that of 100.
LEADERBOARD_ROWS = 100
#: How long `close` tries to get the last rows out, in seconds.
CLOSE_TIMEOUT_S = 60.0

#: How long `close` waits for the server to record the ends of task runs before it sets them.
SETTLE_TIMEOUT_S = 10.0
#: How long a task run that the server does not know may be on its way there, in seconds.
UNHEARD_FOR_S = 2.0
#: Task runs that one request asks for: Prefect's limit.
_PAGE = 200

logger = logging.getLogger("prefect.tune.artifacts")

_ENDED = frozenset(map(str, FINAL))


@dataclass(slots=True)
class _Document:
    """One artifact: what it should show, and what the server has of it."""

    key: str
    kind: str
    description: str
    data: Callable[[], Any]
    task_run_id: UUID | None = None
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


@dataclass(frozen=True, slots=True)
class _ForcedState:
    run_name: str
    task_run_id: UUID
    state: State[Any]


@dataclass(slots=True)
class _TrialTable:
    rows: list[dict[str, Any]] = field(default_factory=list)
    document: _Document | None = None
    #: Whether there is a version before this one, which is full.
    is_continued: bool = False

    @property
    def at_once_s(self) -> float:
        """Least time between two writes, in seconds, even of what is due at once, but for the last row."""
        share = 1.0 if self.is_continued else len(self.rows) / ROWS_PER_VERSION
        return AT_ONCE_S + (INTERVAL_S - AT_ONCE_S) * share


class ArtifactWriter:
    """Writes the artifacts of one experiment.

    Args:
        experiment: The experiment's name; goes into the keys.
        experiment_id: Is made a tag of the flow run: trial ids begin with it.
        flow_run_id: The flow run that they are linked to.
        flow_run_tags: The tags that it has.
        metric: What the leaderboard ranks by.
        mode: `min` or `max`.
        task: The task of the trials, for task runs that the server has never heard of.
        every_report: Write each report at once.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        experiment: str,
        experiment_id: str,
        flow_run_id: UUID,
        flow_run_tags: Collection[str],
        task: Task[Any, Any],
        *,
        metric: str | None = None,
        mode: str | None = None,
        every_report: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._flow_run_tags = slug(experiment), sorted({*flow_run_tags, experiment_id})
        self._tags = TagsContext.get().current_tags
        self._flow_run_id, self._task = flow_run_id, task
        self._metric, self._mode = metric, mode
        self._interval_s = 0.0 if every_report else INTERVAL_S
        self._clock = clock
        self._is_own_server = self._takes_many = is_own_server(PREFECT_API_URL.value())
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._documents: list[_Document] = []
        self._tables: dict[str, _TrialTable] = {}
        self._pages: dict[str, _Document] = {}
        #: The latest attempt of each trial.
        self._task_runs: dict[str, UUID] = {}
        self._leaders: dict[str, tuple[Trial, str]] = {}
        self._progress = 0.0
        self._best_url = ""
        self._states: list[_ForcedState] = []
        self._expected: dict[UUID, _ForcedState] = {}
        self._is_closing = False
        self._has_warned = False
        description = (
            f"Trials, best first: those that have not ended, and the best others, {LEADERBOARD_ROWS} at most"
        )
        self._leaderboard = self._document("leaderboard", "table", description, self._leaderboard_data)
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
            table = self._tables.setdefault(trial.trial_id, _TrialTable())
            if table.document is not None:
                table.document.is_closed = True  # stays as it is; the new version begins with its rows
                table.rows = [*table.rows]
            table.document = self._table_document(trial, table.rows, task_run_id)

    def add_row(self, trial: Trial, row: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Add a report to its trial's table; `at_once` for the first, the last and the best.

        A report of a driver before this one waits for the trial's next attempt, whose table it is in. The
        leaderboard, which the trial is on, shows the latest too.
        """
        shown = row_values(row, trial.lease)
        with self._lock:  # of `_changed`, which takes longer to enter
            self._touch(self._leaderboard, at_once=False)
            table = self._tables.setdefault(trial.trial_id, _TrialTable())
            if table.document is None:
                if len(table.rows) >= ROWS_PER_VERSION:
                    table.rows.clear()  # a version of their own, which that driver has written
                table.rows.append(shown)
                return
            if len(table.rows) >= ROWS_PER_VERSION:
                self._touch(table.document, at_once=True, at_once_s=0.0)  # this is what it will always show
                table.document.is_closed = True
                table.rows, table.is_continued = [], True
                table.document = self._table_document(trial, table.rows, table.document.task_run_id)
                table.document.written = now = self._clock()  # its first rows come as no surprise
                table.document.due = now + self._interval_s
            table.rows.append(shown)
            wait_s = AT_ONCE_S if row.get("done") else table.at_once_s
            self._touch(table.document, at_once=at_once or len(table.rows) == 1, at_once_s=wait_s)

    def close_table(self, trial: Trial) -> None:
        """Write the rest of a finished trial's table, and forget its rows."""
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
    ) -> None:
        """Show a page of markdown, made anew by the writer's thread whenever this has been called.

        Args:
            name: Goes into its key.
            description: Stands above it.
            render: Makes the page; called from the writer's thread.
            every_s: Least time between two versions of it, in seconds, unless the experiment ends.
            trial_id: Link it to the latest attempt of this trial, if it was in this run.
        """
        with self._changed:
            page = self._pages.get(name)
            if page is None:
                task_run_id = self._task_runs.get(trial_id or "")
                page = self._document(name, "markdown", description, render, task_run_id)
                page.page_every_s = every_s
                page.due = self._clock() + min(every_s, INTERVAL_S)  # there is something to show then
                self._pages[name] = page
            self._touch(page, at_once=False)

    def set_best_checkpoint(self, url: str, text: str) -> None:
        """Link the best trial's checkpoint."""
        with self._changed:
            if url == self._best_url:
                return
            self._best_url = url
            if self._link is None:
                self._link = self._document(
                    "best-checkpoint", "markdown", "Checkpoint of the best trial", str
                )
            self._link.data = lambda: checkpoint_page(url, text)
            self._touch(self._link, at_once=False)

    def force_state(self, run_name: str, task_run_id: UUID, state: State[Any]) -> None:
        """Set the state of a task run whose process cannot report it any more."""
        with self._changed:
            self._states.append(_ForcedState(run_name, task_run_id, state))
            self._changed.notify_all()

    def expect_state(self, run_name: str, task_run_id: UUID, state: State[Any]) -> None:
        """Take note of how a task run ended; `close` makes sure that the server knows."""
        with self._changed:
            plain = State(type=state.type, name=state.name, message=state.message, timestamp=state.timestamp)
            self._expected[task_run_id] = _ForcedState(run_name, task_run_id, plain)

    def close(self) -> None:
        """Write everything that is left, then stop; give up after `CLOSE_TIMEOUT_S`."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._warn("the last artifacts could not be written in time")

    # With the lock held.

    def _document(
        self, name: str, kind: str, description: str, data: Callable[[], Any], task_run_id: UUID | None = None
    ) -> _Document:
        document = _Document(f"{self._prefix}-{name}", kind, description, data, task_run_id)
        self._documents.append(document)
        return document

    def _table_document(
        self, trial: Trial, rows: Sequence[Mapping[str, Any]], task_run_id: UUID | None
    ) -> _Document:
        description = f"Reports of {trial} ({trial.experiment_tag or 'no parameters varied'})"
        name = f"trial-{slug(trial.trial_id)}"
        return self._document(name, "table", description, lambda: trial_table(rows), task_run_id)

    def _touch(self, document: _Document, *, at_once: bool, at_once_s: float = AT_ONCE_S) -> None:
        now = self._clock()
        before = document.due if document.is_dirty else math.inf
        soon = now + GATHER_S if self._takes_many and document.artifact_id is None else now
        if not document.is_dirty:
            document.is_dirty = True
            document.due = max(document.due, soon)
        if at_once:
            document.due = min(document.due, max(soon, document.written + at_once_s))
        if self._interval_s == 0 and document.page_every_s is None:
            document.due = now
        if document.due < before:
            self._changed.notify_all()

    def _leaderboard_data(self) -> list[dict[str, Any]]:
        entries = [self._entry(trial, waits_for) for trial, waits_for in self._leaders.values()]
        if self._metric:
            entries.sort(key=self._rank)
        places = LEADERBOARD_ROWS - sum(entry["status"] not in _ENDED for entry in entries)
        shown = []
        for entry in entries:
            if entry["status"] in _ENDED:
                places -= 1
            if entry["status"] not in _ENDED or places >= 0:
                shown.append(entry)
        return uniform(shown[:LEADERBOARD_ROWS])

    def _entry(self, trial: Trial, waits_for: str) -> dict[str, Any]:
        row = trial.last_row
        return {
            "trial": trial.trial_id,
            "status": f"{trial.status} ({waits_for})" if waits_for else str(trial.status),
            **({self._metric: cell(lookup(row, self._metric))} if self._metric else {}),
            "iterations": trial.iteration,
            "attempts": trial.lease,
            "seconds": round(row.get("time_total_s", 0.0), 2),
            **{f"config/{name}": cell(value) for name, value in flatten(trial.config).items()},
            "error": trial.error or "",
        }

    def _rank(self, entry: dict[str, Any]) -> tuple[int, float]:
        value = entry.get(self._metric or "")
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return 1, 0.0
        return 0, -value if self._mode == "max" else value

    # In the writer's thread.

    def _write_all(self) -> None:
        try:
            # The server answers with what it was sent, and would take longer to compress that than to send it.
            options = client_options(PREFECT_API_URL.value(), {"Accept-Encoding": "identity"})
            with get_client(sync_client=True, httpx_settings=options) as client:
                self._tag_flow_run(client)
                self._write_until_closed(client)
                self._settle_task_runs(client)
        except Exception as error:  # noqa: BLE001 - artifacts must never fail an experiment
            self._warn(f"artifacts are not written any more: {error}")

    def _tag_flow_run(self, client: SyncPrefectClient) -> None:
        """Let the flow run be found by what trial ids begin with.

        By an update, since tags of the flow's context are those of its task runs too: for each of
        these Prefect asks the server, twice, whether there is a concurrency limit for its tags.
        """
        try:
            client.update_flow_run(self._flow_run_id, tags=self._flow_run_tags)
        except Exception as error:  # noqa: BLE001 - artifacts must never fail an experiment
            self._warn(f"cannot tag the flow run: {error}")

    def _write_until_closed(self, client: SyncPrefectClient) -> None:
        deadline = math.inf
        while True:
            with self._changed:
                now = self._clock()
                if self._is_closing and deadline == math.inf:
                    deadline = now + CLOSE_TIMEOUT_S
                dirty = [document for document in self._documents if document.is_dirty]
                due = self._due(dirty, now)
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
            if failed and self._clock() > deadline:
                return
            if failed:
                with self._changed:
                    self._changed.wait(1.0)

    def _due(self, dirty: list[_Document], now: float) -> list[_Document]:
        """Return what is to be written now, and what soon would be if that goes with it."""
        if self._is_closing:
            return dirty
        if self._takes_many and any(document.due <= now for document in dirty):
            now += GATHER_S
        return [document for document in dirty if document.due <= now]

    def _put_documents(self, client: SyncPrefectClient, work: Sequence[tuple[_Document, Any]]) -> list[Any]:
        failed = []
        for group in self._groups([*self._drawn(work)]):
            try:
                if len(group) > 1:
                    self._put_together(client, group)
                else:
                    self._put(client, *group[0])
            except Exception as error:  # noqa: BLE001 - tried again with the next write
                self._takes_many = False  # one of them may be what is wrong
                documents = [document for document, _ in group]
                keys = ", ".join(document.key for document in documents)
                self._warn(f"cannot write the artifact {keys!r}, training goes on: {error}")
                with self._changed:
                    for document in documents:
                        document.is_dirty, document.due = True, self._clock() + INTERVAL_S
                failed.extend(documents)
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
                yield document, document.data()
            except Exception:  # to try again would lead to the same
                logger.exception("the page %r cannot be made, training goes on", document.key)

    def _groups(self, work: Sequence[tuple[_Document, Any]]) -> list[list[tuple[_Document, Any]]]:
        """Return what is written by one request each."""
        if not self._takes_many:
            return [[item] for item in work]
        groups: list[list[tuple[_Document, Any]]] = []
        letters = 0
        for item in work:
            letters += len(str(item[1]))
            if not groups or letters > _LETTERS_TOGETHER or len(groups[-1]) == _TOGETHER:
                groups.append([])
                letters = len(str(item[1]))
            groups[-1].append(item)
        return groups

    def _put_together(self, client: SyncPrefectClient, work: Sequence[tuple[_Document, Any]]) -> None:
        new = [item for item in work if item[0].artifact_id is None]
        created = [self._creation(document, data) for document, data in new]
        body = {
            "new": [each.model_dump(mode="json", exclude_unset=True) for each in created],
            "changed": {
                str(document.artifact_id): data for document, data in work if document.artifact_id is not None
            },
        }
        answer = client.request("POST", BULK_ARTIFACTS, json=body)  # type: ignore[arg-type] # not Prefect's
        for (document, _), artifact_id in zip(new, answer.json(), strict=True):
            document.artifact_id = UUID(artifact_id)

    def _put(self, client: SyncPrefectClient, document: _Document, data: Any) -> None:
        if document.artifact_id is not None:
            client.update_artifact(document.artifact_id, ArtifactUpdate(data=data))
        else:
            document.artifact_id = client.create_artifact(self._creation(document, data)).id

    def _creation(self, document: _Document, data: Any) -> ArtifactCreate:
        return ArtifactCreate(
            key=document.key,
            type=document.kind,
            description=document.description,
            data=data,
            flow_run_id=self._flow_run_id,
            task_run_id=document.task_run_id,
        )

    def _settle_task_runs(self, client: SyncPrefectClient) -> None:
        """Wait until the server has the end of every task run; force what does not arrive.

        Prefect's workers send states as events: the server records them with a delay, and they
        have been seen to be lost when a process ends, or when its database is busy.
        """
        deadline = self._clock() + SETTLE_TIMEOUT_S
        while self._expected:
            some = list(self._expected)[:_PAGE]
            if self._count_ended(client, some) == len(some):
                for task_run_id in some:
                    del self._expected[task_run_id]
            elif self._clock() < deadline:
                time.sleep(0.05)
            else:
                wanted = TaskRunFilter(id=TaskRunFilterId(any_=some))
                for run in client.read_task_runs(task_run_filter=wanted, limit=_PAGE):
                    if run.state is not None and run.state.is_final():
                        del self._expected[run.id]
                for item in self._expected.values():
                    self._force(client, item)
                self._expected.clear()

    def _count_ended(self, client: SyncPrefectClient, task_run_ids: list[UUID]) -> int:
        """Ask how many of these task runs have ended: a hundredth of what it costs the server to read them."""
        is_final = TaskRunFilterState(type=TaskRunFilterStateType(any_=list(TERMINAL_STATES)))
        ended = TaskRunFilter(id=TaskRunFilterId(any_=task_run_ids), state=is_final)
        path: Any = COUNT_TASK_RUNS if self._is_own_server else "/task_runs/count"
        answer = client.request("POST", path, json={"task_runs": ended.model_dump(mode="json")})
        return int(answer.json())

    def _put_states(self, client: SyncPrefectClient, forced: Sequence[_ForcedState]) -> list[Any]:
        failed = []
        for item in forced:
            try:
                self._force(client, item)
            except Exception as error:  # noqa: BLE001 - tried again with the next write
                self._warn(f"cannot set task run {item.run_name} to {item.state.name}: {error}")
                failed.append(item)
        if failed:
            with self._changed:
                self._states = [*failed, *self._states]
        return failed

    def _force(self, client: SyncPrefectClient, item: _ForcedState) -> None:
        deadline = self._clock() + UNHEARD_FOR_S
        while True:
            try:
                # Its name comes with the state RUNNING, which a process that died at once may not have sent.
                client.set_task_run_name(item.task_run_id, item.run_name)
                client.set_task_run_state(item.task_run_id, item.state, force=True)
            except PrefectHTTPStatusError as error:
                if error.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                if self._clock() < deadline:
                    time.sleep(0.1)
                    continue
                self._create(client, item)
                client.set_task_run_state(item.task_run_id, item.state, force=True)
            return

    def _create(self, client: SyncPrefectClient, item: _ForcedState) -> None:
        """Prefect's workers send task runs in batches: the last batch may have died with its process."""
        client.create_task_run(
            self._task.with_options(tags=self._tags),
            self._flow_run_id,
            dynamic_key=str(item.task_run_id),
            id=item.task_run_id,
            name=item.run_name,
            state=Running(),
        )

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
