"""What an `OptunaSearch` may be made with, and Optuna itself.

Owns the checks of arguments that need no search space. Never talks to a study.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable
from tune_core.search.optuna.samplers import check_sampler
from tune_core.validation import Validator


def import_optuna() -> Any:
    """Return Optuna.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("OptunaSearch needs Optuna: run pip install 'prefect-tune[optuna]'") from error
    return optuna


@contextmanager
def quiet_studies() -> Iterator[None]:
    """Keep Optuna's line about each study off the terminal."""
    studies = logging.getLogger("optuna.study")
    before = studies.level
    studies.setLevel(logging.WARNING)
    try:
        yield
    finally:
        studies.setLevel(before)


def check_arguments(
    validator: Validator, sampler: Any, study_name: Any, storage: Any, seed: Any, options: Any
) -> None:
    """Note what is wrong with what the study is made of."""
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    if sampler is None or isinstance(sampler, str):
        check_sampler(validator, sampler or "tpe", {} if options is None else options)
    else:
        validator.check_instance("sampler", sampler, BaseSampler)
        if options is not None:
            validator.add("sampler_options", options, "goes with a sampler's name: give them to the sampler")
    if study_name is not None:
        validator.check_name("study_name", study_name)
    if storage is not None and not isinstance(storage, BaseStorage):
        validator.note(
            f"storage: expected an optuna.storages.BaseStorage, such as RDBStorage(url), got {type(storage).__name__}"
        )
    if seed is not None:
        validator.check_integer("seed", seed, minimum=0, also=", or None")


def check_points(validator: Validator, points: Any, rewards: Any) -> None:
    """Note what is wrong with points, as far as that can be said without the search space."""
    is_list = isinstance(points, list | tuple) and all(isinstance(point, Mapping) for point in points)
    if points is not None and not is_list:
        validator.add("points_to_evaluate", points, "expected a list of dicts")
    if rewards is None or (points is not None and not is_list):
        return
    if not isinstance(rewards, list | tuple) or len(rewards) != len(points or ()):
        validator.add(
            "evaluated_rewards", rewards, "expected a list with a value for each of points_to_evaluate"
        )


def refuse_lacking(metric: Any, mode: Any, space: Any) -> None:
    """Refuse a search of which nobody has said what for, or where.

    Raises:
        ConfigError: Metric, mode or search space are missing.
    """
    if metric is None and isinstance(mode, str):
        metric = "_metric"
    given = (("metric", metric), ("mode", mode), ("space", space))
    missing = [name for name, value in given if not value]
    if missing:
        raise ConfigError(
            f"OptunaSearch: no {', no '.join(missing)}: give metric and mode to it or to TuneConfig, and "
            "samplers to it or to param_space"
        )


def number_of(value: object) -> float | None:
    """Return a metric's value; None for NaN, which Optuna does not take."""
    number = comparable(value)
    return None if number is None or math.isnan(number) else number
