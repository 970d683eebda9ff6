"""Hyperparameter tuning that lives in Prefect, with Ray Tune's training API.

Change `from ray import tune` to `import tune_core as tune`: names and behaviour are Ray Tune
2.60's, except where a docstring says "differs".
"""

from __future__ import annotations

from tune_core import utils as utils
from tune_core.callback import Callback
from tune_core.config.failure_config import FailureConfig
from tune_core.config.resume_config import ResumeConfig
from tune_core.config.run_config import (
    CheckpointConfig,
    RunConfig,
    SyncConfig,
    TuneConfig,
)
from tune_core.errors import TuneError
from tune_core.flow import experiment_flow
from tune_core.progress_reporter.reporters import CLIReporter, JupyterNotebookReporter, ProgressReporter
from tune_core.registry import register_env, register_trainable
from tune_core.resources import PlacementGroupFactory
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.results.result_grid import Result, ResultGrid
from tune_core.schedulers import create_scheduler
from tune_core.search import create_searcher
from tune_core.search.space import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from tune_core.simulation.whatif import replay
from tune_core.steering.inbox import steer
from tune_core.stopper import Stopper
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training.context import TuneContext, get_checkpoint, get_context, report
from tune_core.training.parameters import with_parameters
from tune_core.training.resource_requests import with_resources
from tune_core.training.trainable import Trainable
from tune_core.tune import run
from tune_core.tuner import Tuner

__version__ = "0.1.0"

__all__ = [
    "CLIReporter",
    "Callback",
    "Checkpoint",
    "CheckpointConfig",
    "ExperimentAnalysis",
    "FailureConfig",
    "JupyterNotebookReporter",
    "PlacementGroupFactory",
    "ProgressReporter",
    "Result",
    "ResultGrid",
    "ResumeConfig",
    "RunConfig",
    "Stopper",
    "SyncConfig",
    "Trainable",
    "TuneConfig",
    "TuneContext",
    "TuneError",
    "Tuner",
    "choice",
    "create_scheduler",
    "create_searcher",
    "experiment_flow",
    "get_checkpoint",
    "get_context",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "register_env",
    "register_trainable",
    "replay",
    "report",
    "run",
    "sample_from",
    "steer",
    "uniform",
    "with_parameters",
    "with_resources",
]
