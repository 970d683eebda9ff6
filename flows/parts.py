"""What the loop of an experiment works with, and what other threads tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from flows.artifacts import ArtifactWriter
from flows.channel import Channel
from flows.deaths import Recovery
from flows.deletions import Deletions
from flows.events import Events
from flows.inbox import InboxWatch
from flows.pages import Pages
from flows.parameters import SharedParameters
from flows.slots import SlotPool
from tune_core.callbacks import CallbackList
from tune_core.controller import Controller
from tune_core.journal import Journal
from tune_core.loggers import LoggerCallback
from tune_core.overview import Overview
from tune_core.progress import ProgressDisplay
from tune_core.runtime import Experiment
from tune_core.steering import Steering
from tune_core.trial_files import TrialFiles
from tune_core.watchers import Watchers


@dataclass(frozen=True, slots=True)
class Journaled:
    """A group of events is in the journal, so at that time nobody had taken this driver's place.

    Attributes:
        iterations: The highest iteration of its rows, per trial and lease.
        time: When it was written, in monotonic seconds.
    """

    iterations: dict[tuple[str, int], int]
    time: float


@dataclass(frozen=True, slots=True)
class ShellFailed:
    """Something that the experiment cannot do without is gone."""

    error: Exception


@dataclass(slots=True)
class Parts:
    """What a driver works with; made by `flows.experiment`, closed by it."""

    experiment: Experiment
    controller: Controller
    steering: Steering
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
