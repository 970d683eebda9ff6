"""Which experiments the latest runs of a deployment were."""

from __future__ import annotations

import logging

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from tune_core.control.segments import segment_numbers
from tune_core.engine.settings import storage_of
from tune_core.errors import ConfigError, StorageError
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import brief

logger = logging.getLogger("prefect.tune")


def locate_runs(deployment: str, last: int) -> list[ExperimentStorage]:
    """Return the experiments of a deployment's latest completed runs, the latest first.

    An experiment is called like its run, and is where the run's parameters, the block that they name, or the
    settings of this machine say. A run whose experiment is not there is left out, and the log says so.

    Args:
        deployment: `FLOW/NAME`.
        last: How many runs, at most.

    Raises:
        ConfigError: There is no such deployment, none of its runs has left an experiment, or no server answers.
    """
    try:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(deployment)
            runs = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[found.id]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])),
                ),
                sort=FlowRunSort.END_TIME_DESC,
                limit=last,
            )
    except ObjectNotFound:
        raise ConfigError(
            f"warm_start: deployment:{deployment}: the Prefect server has none of this name: expected FLOW/NAME, as "
            "`prefect deployment ls` shows it"
        ) from None
    except (httpx.TransportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"warm_start: deployment:{deployment}: no Prefect server answers ({brief(error)}): set PREFECT_API_URL, or "
            "give the paths of experiments"
        ) from None
    storages = [storage for run in runs if (storage := _storage_of(run)) is not None]
    if not storages:
        raise ConfigError(
            f"warm_start: deployment:{deployment}: none of its {len(runs)} latest completed runs has left an "
            "experiment that can be found from here"
        )
    return storages


def _storage_of(run: FlowRun) -> ExperimentStorage | None:
    run_config = run.parameters.get("run_config") or {}
    try:
        place = storage_of(run_config.get("storage_path"), run_config.get("store"))
        storage = ExperimentStorage.open(place.url, run.name, storage_options=place.options)
        if segment_numbers(storage):
            return storage
        fault = f"{storage.url} holds no experiment"
    except (ConfigError, StorageError) as error:
        fault = str(error)
    logger.warning("warm start leaves run %s out: %s", run.name, fault)
    return None
