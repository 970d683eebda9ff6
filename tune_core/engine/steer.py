"""The `steer` flow: a form in Prefect's UI for what one may ask of an experiment that runs.

A running flow has no form of its own, and `pause_flow_run` would block it and hold its bundles. So this
is a flow beside it. It imports no Ray: any worker that may write to the storage can run it.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from tune_core.control.namesakes import chosen, experiment_at
from tune_core.engine.form.fields import OneOf, OptionForm
from tune_core.engine.settings import storage_of
from tune_core.errors import TuneError
from tune_core.steering.inbox import (
    TIMEOUT_S,
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Reply,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
    send,
)
from tune_core.storage.experiment_storage import ExperimentStorage, split_number
from tune_core.validation import shorten


def requests() -> dict[str, type[Request]]:
    """Return what can be asked for, by the names that the form shows: short, since they are tabs beside each other."""
    return {
        "pause all": PauseExperiment,
        "resume all": ResumeExperiment,
        "stop all": StopExperiment,
        "pause trial": PauseTrial,
        "resume trial": ResumeTrial,
        "stop trial": StopTrial,
        "add trial": AddConfiguration,
        "more samples": RaiseNumSamples,
        "looser stop": LoosenStop,
        "other space": ChangeSpace,
    }


#: What is asked for: `{"stop trial": {"trial_id": "3"}}`.
RequestForm = Annotated[OptionForm, OneOf(requests)]


def _flow_run_name() -> str:
    given: dict[str, Any] = flow_run.parameters
    return f"{given['request'].option_kind} · {given['experiment'].rstrip('/').rpartition('/')[2]}"


def _storage(experiment: str, store: str | None) -> ExperimentStorage:
    if "/" in experiment:
        place = storage_of(experiment, store)
        return experiment_at(place.url, storage_options=place.options)
    place = storage_of(None, store)
    name, number = split_number(experiment)
    storage = ExperimentStorage.open(place.url, name, storage_options=place.options)
    return storage if number is None else chosen(storage, number)


@flow(name="steer", flow_run_name=_flow_run_name, persist_result=False)
def steer(
    experiment: Annotated[str, Field(min_length=1)],
    request: RequestForm,
    store: str = "",
    timeout_s: Annotated[float, Field(gt=0)] = TIMEOUT_S,
) -> State[Any]:
    """Ask a running experiment to pause, go on or stop, or to try more.

    Args:
        experiment: The experiment's name, which is also that of its flow run, below the place where this
            machine keeps experiments; or its whole path or URL.
        request: What is asked for. A trial may be named by its number.
        store: Name of the ExperimentStore block that the experiment is kept in. Empty: as the settings say.
        timeout_s: How long to wait for the answer, in seconds.
    """
    asked: Request = request.make()
    try:
        reply = send(_storage(experiment, store or None), asked, timeout_s)
    except TuneError as error:
        reply = Reply(False, str(error))
    verdict = "Accepted" if reply.accepted else "Refused"
    create_markdown_artifact(
        f"**{verdict}:** {reply.message}\n\n| | |\n|---|---|\n"
        f"| experiment | `{experiment}` |\n| request | `{shorten(asked, 1000)}` |\n",
        key="steer",
        description=f"What {experiment} answered to {request.option_kind}",
    )
    if reply.accepted:
        return Completed(message=reply.message)
    return Failed(message=reply.message)
