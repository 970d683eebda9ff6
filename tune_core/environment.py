"""Ray Tune's environment variables: those that are read here, and what to use in place of each of the others.

The whole list of Ray 2.60, so that a variable which did something there is never ignored without a word.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping

from tune_core.errors import ConfigError

#: Read here as Ray Tune reads them (the last one is set for trials).
HONOURED = (
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
    "TUNE_DISABLE_DATED_SUBDIR",
    "TUNE_DISABLE_RESOURCE_CHECKS",
    "RAY_CHDIR_TO_TRIAL_DIR",
    "TUNE_ORIG_WORKING_DIR",
)
#: Refused, as Ray Tune refuses them: results would be somewhere else than the variable says.
REFUSED = {
    "TUNE_RESULT_DIR": "RunConfig(storage_path=…)",
    "RAY_AIR_LOCAL_CACHE_DIR": "RunConfig(storage_path=…)",
}
#: Not read, with what to use.
REPLACED = {
    "RAY_STORAGE": "RunConfig(storage_path=…)",
    "RAY_TUNE_CALLBACKS": "RunConfig(callbacks=[…])",
    "RAY_AIR_NEW_OUTPUT": "RunConfig(verbose=…, progress_reporter=…)",
    "RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE": "FailureConfig(max_infrastructure_failures=…)",
    "TUNE_DISABLE_AUTO_INIT": "ray.init() before fit(), or RunConfig(ray_address=…)",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "a report that has the metric in each row",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "RunConfig(stop_timeout_s=…)",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "RunConfig(stop_timeout_s=…)",
    "TUNE_MAX_LEN_IDENTIFIER": "TuneConfig(trial_dirname_creator=…)",
    "TUNE_MAX_PENDING_TRIALS_PG": "TuneConfig(max_concurrent_trials=…)",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "RunConfig(verbose=…)",
    "TUNE_RESTORE_RETRY_NUM": "FailureConfig(max_failures=…)",
    "TUNE_RESULT_DELIM": "a/b, which nested metrics are always called",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "RunConfig(placement_timeout_s=…)",  # spelt as there
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "RunConfig(placement_timeout_s=…)",
}
_BATCHES = "reports travel in batches as it is, and none waits for others"
_NO_WARNING = "there is no such warning"
#: Not read, with the reason why nobody needs them.
NOT_NEEDED = {
    "RAY_AIR_FULL_TRACEBACKS": "a trial's error.txt has the whole traceback",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": _NO_WARNING,
    "TUNE_DISABLE_SIGINT_HANDLER": "Ctrl-C stops the trials cleanly, a second one at once",
    "TUNE_GLOBAL_CHECKPOINT_S": "the journal is written about once a second",
    "TUNE_ONLY_STORE_CHECKPOINT_SCORE_ATTRIBUTE": "a checkpoint's metrics are not held in memory twice",
    "TUNE_PLACEMENT_GROUP_PREFIX": "Ray Tune does not read it either",
    "TUNE_PLACEMENT_GROUP_RECON_INTERVAL": "Ray Tune does not read it either",
    "TUNE_RESULT_BUFFER_LENGTH": _BATCHES,
    "TUNE_RESULT_BUFFER_MAX_TIME_S": _BATCHES,
    "TUNE_RESULT_BUFFER_MIN_TIME_S": _BATCHES,
    "TUNE_STATE_REFRESH_PERIOD": "what happens is seen as it happens",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": _NO_WARNING,
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": _NO_WARNING,
    "TUNE_WARN_THRESHOLD_S": _NO_WARNING,
}
#: Those that have been named in this process.
_named: set[str] = set()


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Warn of what is set and not read here, of each variable once in this process.

    Args:
        environment: The variables.

    Raises:
        ConfigError: One of those is set that Ray Tune refuses, too.
    """
    refused = {name: instead for name, instead in REFUSED.items() if name in environment}
    if refused:
        raise ConfigError([f"{name}={environment[name]!r}: use {refused[name]}" for name in refused])
    texts = {name: f"use {instead}" for name, instead in REPLACED.items()} | NOT_NEEDED
    new = [name for name in texts if name in environment and name not in _named]
    if new:
        _named.update(new)
        listed = "; ".join(f"{name} ({texts[name]})" for name in new)
        warnings.warn(f"variables of Ray Tune that do nothing here: {listed}", stacklevel=3)
