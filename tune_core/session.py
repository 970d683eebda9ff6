"""What a trainable sees of its trial: `report`, `get_checkpoint`, `get_context`.

A `Session` turns metrics into a report row, commits the checkpoint before the row is sent,
and stops the trainable when it is told to. It keeps the rows that the driver has not yet
journaled, so that a commit marker can carry them. It knows the driver only as an `Uplink`.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tune_core.checkpoint import Checkpoint
from tune_core.encoding import as_plain
from tune_core.errors import MetricMissing
from tune_core.messages import Decision
from tune_core.metrics import lookup
from tune_core.resources import PlacementGroupFactory
from tune_core.stoppers import DictStopper
from tune_core.storage import ExperimentStorage
from tune_core.trial import checkpoint_name

#: Rows that may be on their way before `report` waits for the journal: bounds the memory of
#: a trial that reports faster than its storage takes segments.
WINDOW = 8192

T = TypeVar("T")


class StopTrial(SystemExit):
    """Raised out of `report` to end the trainable in order: its `finally` blocks run."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Everything that one attempt at a trial needs to know; travels to its process as bytes.

    Attributes:
        experiment_name: Name of the experiment.
        trial_id: The trial's id.
        trial_name: `<trainable>_<trial id>`.
        dirname: The trial's directory below the experiment's.
        lease: Number of this attempt, from 1.
        config: The trial's configuration.
        resources: The bundles that the attempt was given.
        storage: Where checkpoints are committed.
        checkpoint: Index of the checkpoint to start from; None: from scratch.
        checkpoint_dirname: The trial's directory that this checkpoint is in; "" for its own.
        iteration: `training_iteration` of that checkpoint; 0 without one.
        totals: `time_total_s`, `timesteps_total` … at that checkpoint.
        highest_index: Highest checkpoint index of earlier attempts; -1: none.
        metric: The metric that every report must contain; None: any report will do.
        stop: Rules `name >= value` that the session checks itself.
        waits_for_decisions: Whether something could answer a report with other than CONTINUE.
        log_files: Names of the files that stdout and stderr are copied to; None: to none.
        keeps_artifacts: When files that the trainable leaves in its directory go to the storage;
            "always" is with each checkpoint and at the end.
    """

    experiment_name: str
    trial_id: str
    trial_name: str
    dirname: str
    lease: int
    config: dict[str, Any]
    resources: PlacementGroupFactory
    storage: ExperimentStorage
    checkpoint: int | None = None
    checkpoint_dirname: str = ""
    iteration: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    highest_index: int = -1
    metric: str | None = None
    stop: dict[str, float] = field(default_factory=dict)
    waits_for_decisions: bool = False
    log_files: tuple[str, str] | None = None
    keeps_artifacts: Literal["never", "at_end", "always"] = "never"


@dataclass(frozen=True, slots=True)
class Report:
    """One report on its way to the driver."""

    iteration: int
    row: dict[str, Any]
    checkpoint: int | None = None
    wants_decision: bool = False


class Uplink(Protocol):
    """The way from a session to the experiment's driver and back."""

    def send(self, report: Report) -> None:
        """Hand a report over. Returns at once; order is kept."""

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
    def journaled(self) -> int:
        """The highest iteration whose row is known to be in the journal."""


class Session:
    """One attempt at a trial, as its trainable sees it.

    Args:
        lease: What the driver ordered.
        uplink: The way to the driver.
        wall_clock: Seconds since the epoch.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        lease: Lease,
        uplink: Uplink,
        *,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease = lease
        self.trial_dir = ""
        self.metric_missing: MetricMissing | None = None
        self._uplink = uplink
        self._wall_clock, self._clock = wall_clock, clock
        self._lock = threading.RLock()
        self._iteration = lease.iteration
        self._totals = {"time_total_s": 0.0, **lease.totals}
        self._since_restore: dict[str, float] = {"iterations": 0, "time": 0.0, "timesteps": 0}
        self._last_time = clock()
        self._next_index = lease.highest_index + 1
        self._unjournaled: deque[tuple[int, dict[str, Any]]] = deque()
        self._is_stopped = False
        self._kept: dict[Path, tuple[int, int]] = {}
        self._stop_rules = DictStopper(lease.stop)
        self._checkpoint = None
        if lease.checkpoint is not None:
            source = lease.checkpoint_dirname or lease.dirname
            self._checkpoint = lease.storage.checkpoint(source, lease.checkpoint)

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The newest committed checkpoint of the trial: restored from, or reported since."""
        return self._checkpoint

    @property
    def iteration(self) -> int:
        """`training_iteration` of the latest report."""
        return self._iteration

    def restart_clock(self) -> None:
        """Start measuring the first iteration now, when the trainable is about to run."""
        self._last_time = self._clock()

    def report(self, metrics: Mapping[str, Any], checkpoint: Checkpoint | None = None) -> None:
        """See `tune_core.report`."""
        with self._lock:
            if self._is_stopped or self._uplink.poll():
                self._stop()
            user_metrics = validate_metrics(metrics)
            _require_checkpoint(checkpoint)
            before = self._iteration, self._last_time, {**self._totals}, {**self._since_restore}
            try:
                row = self._row(user_metrics)
                index = None if checkpoint is None else self._commit(checkpoint, row)
            except BaseException:
                # No row is sent, so its number stays free: rows in a marker are counted back from its own.
                self._iteration, self._last_time, self._totals, self._since_restore = before
                raise
            report = Report(self._iteration, row, index, self.lease.waits_for_decisions and not row["done"])
            self._unjournaled.append((self._iteration, row))
            self._uplink.send(report)
            if index is not None and self.lease.keeps_artifacts == "always":
                self.keep_artifacts()
            self._require_metric(row)
            if row["done"]:
                self._stop()
            self._await_answer(report)

    def _await_answer(self, report: Report) -> None:
        if (
            report.wants_decision
            and self._uplink.wait_for_decision(report.iteration) is not Decision.CONTINUE
        ):
            self._stop()
        self._forget_journaled()
        if len(self._unjournaled) >= WINDOW:
            self._uplink.wait_for_journal(self._unjournaled[WINDOW // 2][0])
            self._forget_journaled()

    def _forget_journaled(self) -> None:
        while self._unjournaled and self._unjournaled[0][0] <= self._uplink.journaled:
            self._unjournaled.popleft()

    def _stop(self) -> None:
        self._is_stopped = True
        raise StopTrial(0)

    def keep_artifacts(self) -> None:
        """Copy files that are new or changed in the working directory to the trial's directory."""
        root = Path(self.trial_dir)
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            stat = file.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            if self._kept.get(file) != version:
                name = file.relative_to(root).as_posix()
                self.lease.storage.upload(file, f"{self.lease.dirname}/{name}")
                self._kept[file] = version

    def _row(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """Fill in what Ray Tune fills in; who wins is as there (tune-semantics of 2.60)."""
        now, taken = self._clock(), metrics.get("time_this_iter_s")
        spent = taken if isinstance(taken, (int, float)) else now - self._last_time
        self._last_time = now
        self._iteration += 1
        here = self._since_restore
        here["iterations"] += 1
        here["time"] += spent
        self._totals["time_total_s"] += spent
        row = {
            **metrics,
            "time_this_iter_s": spent,
            "time_total_s": self._totals["time_total_s"],
            "time_since_restore": here["time"],
            "iterations_since_restore": here["iterations"],
            "timestamp": int(self._wall_clock()),
        }
        row.setdefault("training_iteration", self._iteration)
        for name in ("timesteps", "episodes"):
            added = metrics.get(f"{name}_this_iter")
            if isinstance(added, (int, float)):
                self._totals[f"{name}_total"] = self._totals.get(f"{name}_total", 0) + added
                here[name] = here.get(name, 0) + added
            if f"{name}_total" in self._totals:
                row.setdefault(f"{name}_total", self._totals[f"{name}_total"])
        if here["timesteps"]:
            row["timesteps_since_restore"] = here["timesteps"]
        row["done"] = bool(row.get("done", False)) or self._stop_rules(self.lease.trial_id, row)
        row["checkpoint_dir_name"] = None
        return row

    def _commit(self, checkpoint: Checkpoint, row: dict[str, Any]) -> int:
        self._forget_journaled()
        row["should_checkpoint"] = True
        row["checkpoint_dir_name"] = checkpoint_name(self._next_index)
        marker = self.lease.storage.commit_checkpoint(
            self.lease.dirname,
            checkpoint,
            index=self._next_index,
            lease=self.lease.lease,
            iteration=self._iteration,
            rows=[*(earlier for _, earlier in self._unjournaled), row],
            metrics=row,
        )
        row["checkpoint_dir_name"] = checkpoint_name(marker.index)
        self._next_index = marker.index + 1
        self._checkpoint = self.lease.storage.checkpoint(self.lease.dirname, marker.index)
        return marker.index

    def _require_metric(self, row: dict[str, Any]) -> None:
        metric = self.lease.metric
        if metric is None or lookup(row, metric) is not None:
            return
        names = sorted(map(str, row))
        close = get_close_matches(metric, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        self.metric_missing = MetricMissing(
            f"metric {metric!r} is missing from the report of trial {self.lease.trial_id} (iteration "
            f"{self._iteration}); reported: {', '.join(names)}. TuneConfig(metric={metric!r}) needs it: report it, "
            f"or change metric=.{hint}"
        )
        raise self.metric_missing


def validate_metrics(metrics: Any) -> dict[str, Any]:
    """Return a copy of reported metrics in Python's own types.

    Raises:
        TypeError: Not a mapping with string keys.
        ValueError: A torch tensor is in it: it would hold GPU memory and its graph.
    """
    if not isinstance(metrics, Mapping):
        message = f"report expects a dict of metrics, such as {{'loss': 0.1}}; got {metrics!r}"
        raise TypeError(f"{message} ({type(metrics).__name__})")
    _refuse_unfit(metrics, "")
    return {key: as_plain(value) for key, value in metrics.items()}


def _require_checkpoint(checkpoint: Any) -> None:
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        message = f"checkpoint={checkpoint!r}: report expects a tune_core.Checkpoint, such as "
        raise TypeError(message + "Checkpoint.from_directory(path)")


_NUMBERS = frozenset((float, int))


def _refuse_unfit(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"report: metric names are strings; got {key!r} at {path or 'the top'}")
            if type(item) not in _NUMBERS:
                _refuse_unfit(item, f"{path}/{key}" if path else key)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_unfit(item, path)
    elif type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        raise ValueError(
            f"metric {path!r} is a torch tensor: report a number, {path}.item() or float({path})"
        )


_bound: ContextVar[Session | None] = ContextVar("tune_session", default=None)
#: Sessions bound in this process, for threads that a trainable starts: their context is empty.
_in_process: list[Session] = []
_warned: set[str] = set()


@contextmanager
def bind(session: Session) -> Iterator[None]:
    """Make `report` and its like mean this session, in this context and in threads started from it."""
    token = _bound.set(session)
    _in_process.append(session)
    try:
        yield
    finally:
        _bound.reset(token)
        _in_process.remove(session)


def current_session() -> Session | None:
    """Return the session of the calling trainable; None outside one.

    A thread that a trainable started has it too, unless several trials share the process.
    """
    bound = _bound.get()
    if bound is None and len(_in_process) == 1:
        return _in_process[0]
    return bound


def _outside(name: str, default: T, stacklevel: int = 3) -> T:
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"`{name}` is meant to be called inside a function that a Tuner runs. Returning `{default}`.",
            stacklevel=stacklevel,
        )
    return default


def report(metrics: Mapping[str, Any], *, checkpoint: Checkpoint | None = None) -> None:
    """Report metrics of one training iteration, and optionally a checkpoint.

    When this returns, the checkpoint is committed to the experiment's storage and the row is
    on its way to the driver. The call counts as one `training_iteration`. If a scheduler or
    a stop rule ends the trial, this call does not return: it raises `SystemExit`, so that
    `finally` blocks run.

    Args:
        metrics: A dict of metrics; nested dicts are fine, names are strings. numpy scalars become
            numbers. NaN and infinities are kept.
        checkpoint: A directory to keep, by `Checkpoint.from_directory(path)`; it is uploaded
            before this call returns, so the directory may be removed afterwards.

    Raises:
        TypeError: `metrics` is no dict, or `checkpoint` no `Checkpoint`.
        ValueError: A torch tensor is among the metrics.
        CheckpointError: The checkpoint cannot be stored; no row is sent.
        MetricMissing: `TuneConfig(metric=…)` is not among the metrics; the row is kept.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     for epoch in range(3):
        ...         tune.report({"loss": config["lr"] / (epoch + 1)})

    Source: as Ray Tune 2.60. Outside a trial it warns once and does nothing.
    """
    session = current_session()
    if session is None:
        return _outside("report", None)
    return session.report(metrics, checkpoint)


def get_checkpoint() -> Checkpoint | None:
    """Return the newest committed checkpoint of this trial, to resume from.

    That is the one that this attempt was started from, until `report(checkpoint=…)` makes a newer one.

    Returns:
        None in a trial that has no checkpoint yet.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     checkpoint = tune.get_checkpoint()
        ...     if checkpoint:
        ...         with checkpoint.as_directory() as directory:
        ...             ...  # load from directory

    Source: as Ray Tune 2.60.
    """
    session = current_session()
    return _outside("get_checkpoint", None) if session is None else session.checkpoint


class TuneContext:
    """Metadata of the running trial; get it with `get_context()`.

    Source: as Ray Tune 2.60; differs: `get_trial_dir` is always the trial's working directory.
    """

    def get_experiment_name(self) -> str | None:
        """Return the experiment's name; None outside a trial."""
        return self._of("get_experiment_name", lambda session: session.lease.experiment_name)

    def get_trial_name(self) -> str | None:
        """Return the trial's name, `<trainable>_<trial id>`; None outside a trial."""
        return self._of("get_trial_name", lambda session: session.lease.trial_name)

    def get_trial_id(self) -> str | None:
        """Return the trial's id; None outside a trial."""
        return self._of("get_trial_id", lambda session: session.lease.trial_id)

    def get_trial_resources(self) -> PlacementGroupFactory | None:
        """Return the bundles that this trial was given; None outside a trial."""
        return self._of("get_trial_resources", lambda session: session.lease.resources)

    def get_trial_dir(self) -> str | None:
        """Return the trial's working directory on this node; None outside a trial."""
        return self._of("get_trial_dir", lambda session: session.trial_dir)

    def get_storage(self) -> ExperimentStorage | None:
        """Return the experiment's storage; None outside a trial."""
        return self._of("get_storage", lambda session: session.lease.storage)

    def get_world_size(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 1 outside."""
        return self._rank("get_world_size", 1)

    def get_local_world_size(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 1 outside."""
        return self._rank("get_local_world_size", 1)

    def get_world_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_world_rank", 0)

    def get_local_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_local_rank", 0)

    def get_node_rank(self) -> int | None:
        """Return None inside a trial, as Ray Tune 2.60 does; 0 outside."""
        return self._rank("get_node_rank", 0)

    def get_metadata(self) -> dict[str, Any]:
        """Raise: there is no metadata in Tune.

        Raises:
            DeprecationWarning: Always, as in Ray Tune 2.60; pass what is needed in the config.
        """
        raise DeprecationWarning("`get_metadata` is deprecated for Ray Tune: put the values into param_space")

    @staticmethod
    def _of(name: str, get: Callable[[Session], T]) -> T | None:
        session = current_session()
        return _outside(name, None, stacklevel=4) if session is None else get(session)

    @staticmethod
    def _rank(name: str, outside: int) -> int | None:
        return _outside(name, outside, stacklevel=4) if current_session() is None else None


_context = TuneContext()


def get_context() -> TuneContext:
    """Return the context object, from which a trainable reads its trial's id, name and directory.

    Example:
        >>> import tune_core as tune
        >>> def train(config):
        ...     print(tune.get_context().get_trial_id())

    Source: as Ray Tune 2.60.
    """
    return _context


def working_directory(lease: Lease) -> str:
    """Return the local directory that a lease runs in, on this node."""
    root = Path(tempfile.gettempdir(), f"prefect-tune-{os.getuid()}")
    return str(root / lease.experiment_name / lease.dirname)
