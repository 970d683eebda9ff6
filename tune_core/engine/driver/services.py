"""What the loop of an experiment works with, and what other threads tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tune_core.callback import CallbackList
from tune_core.control.controller import Controller
from tune_core.control.experiment import Experiment
from tune_core.control.journal import Journal
from tune_core.control.policy import Policy
from tune_core.control.watchers import Watchers
from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.engine.artifacts.experiment_pages import Pages
from tune_core.engine.channel.channel import Channel
from tune_core.engine.deaths import Recovery
from tune_core.engine.driver.deletions import Deletions
from tune_core.engine.driver.inbox_watcher import InboxWatch
from tune_core.engine.events import Events
from tune_core.engine.slots.pool import SlotPool
from tune_core.engine.worker.shared_parameters import SharedParameters
from tune_core.logger.callbacks import LoggerCallback
from tune_core.logger.trial_files import TrialFiles
from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.views.overview import Overview


@dataclass(frozen=True, slots=True)
class Journaled:
    """A group of events is in the journal, so at that time nobody had taken this driver's place.

    Attributes:
        iterations: The highest iteration of its rows, per trial and attempt.
        time: When it was written, in monotonic seconds.
    """

    iterations: dict[tuple[str, int], int]
    time: float


@dataclass(frozen=True, slots=True)
class DriverFailed:
    """Something that the experiment cannot do without is gone."""

    error: Exception


@dataclass(slots=True)
class Services:
    """What a driver works with; made and closed by `tune_core.engine.composition`."""

    experiment: Experiment
    controller: Controller
    policy: Policy
    channel: Channel
    parameters: SharedParameters
    pool: SlotPool
    journal: Journal
    inbox: InboxWatch
    artifacts: ArtifactWriter
    recovery: Recovery
    files: TrialFiles
    default_loggers: list[LoggerCallback]
    loggers: CallbackList
    user_callbacks: CallbackList
    watchers: Watchers
    progress: ProgressDisplay
    capacity: int
    deletions: Deletions
    overview: Overview
    events: Events
    pages: Pages
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
