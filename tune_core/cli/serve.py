"""Scheduled experiments without work pool and worker: one process that waits, and runs what is due.

Beside the experiment it serves the flow that steers it, so that the UI can do both.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import prefect
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import Flow
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType

from tune_core.engine.experiment import experiment
from tune_core.engine.form.form import ExperimentForm
from tune_core.engine.settings import require_server
from tune_core.engine.steer import steer
from tune_core.errors import ConfigError
from tune_core.storage.filesystems import brief
from tune_core.validation import Validator

#: How many runs may steer experiments while all that may run do so.
_STEERING = 2


def serve(
    form: ExperimentForm,
    name: str,
    *,
    cron: str | None = None,
    interval_s: float | None = None,
    timezone: str | None = None,
    limit: int = 1,
) -> None:
    """Make a deployment of an experiment and run what is due, here, until SIGINT or SIGTERM.

    Each run is a process of its own; as this one ends, schedules are paused. Runs that are asked for in the
    UI, or with `prefect deployment run experiment/NAME`, are run too; so are those of `steer/steer`.

    Args:
        form: The experiment; a run may change its values.
        name: The deployment's name; one that is there already is changed.
        cron: When to run, as five fields; None: by `interval_s`, or only when asked.
        interval_s: Seconds between the beginnings of runs.
        timezone: Name of the time zone that `cron` means, such as "Europe/Berlin"; None: UTC.
        limit: How many of the runs may be at work at once; others wait for them.

    Raises:
        ConfigError: A value cannot work, or no Prefect server is configured.
        TuneError: The Prefect server does not answer.

    Example:
        >>> from tune_core.engine.form.form import ExperimentForm
        >>> serve(ExperimentForm.load("nightly.yaml"), "nightly", cron="30 2 * * *")  # doctest: +SKIP
    """
    schedule = _schedule(cron, interval_s, timezone, limit)
    require_server()
    prefect.serve(
        _deployment(experiment, name, form, schedule, limit),
        RunnerDeployment.from_flow(steer, "steer", entrypoint_type=EntrypointType.MODULE_PATH),
        limit=limit + _STEERING,
    )


def _schedule(
    cron: str | None, interval_s: float | None, timezone: str | None, limit: int
) -> Schedule | None:
    validator = Validator("serve")
    validator.check_integer("limit", limit, minimum=1)
    if cron is not None and interval_s is not None:
        validator.note("cron and interval_s: give one of them")
    if timezone is not None and cron is None:
        validator.note("timezone without cron: it says what the hours of cron mean")
    if interval_s is not None and not 0 < interval_s < float("inf"):
        validator.add("interval_s", interval_s, "expected seconds above 0")
    validator.raise_any()
    if cron is None:
        return None if interval_s is None else Interval(interval_s)
    try:
        return Cron(cron, timezone=None if timezone is None else ZoneInfo(timezone).key)
    except (ValueError, ZoneInfoNotFoundError) as error:
        raise ConfigError(f"serve(cron={cron!r}, timezone={timezone!r}): {brief(error)}") from None


def _deployment(
    flow: Flow[..., object], name: str, form: ExperimentForm, schedule: Schedule | None, limit: int
) -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        flow,
        name,
        schedules=None if schedule is None else [schedule],
        parameters=form.model_dump(mode="json", exclude_unset=True),
        concurrency_limit=ConcurrencyLimitConfig(
            limit=limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE
        ),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
