"""Automations of the Prefect server: what it does by itself when something happens to an experiment.

A flow process that is killed cannot say so: its flow run would be Running for ever, and nobody
would try it again. Prefect's flows send heartbeats; an automation has to listen to them. The others
listen to what experiments say themselves (docs/events.md).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CancelFlowRun, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from tune_core.errors import ConfigError

#: The automation's name, by which it is found again.
CRASH_DETECTION = "prefect-tune: flow runs without a heartbeat have crashed"
#: The name of the automation that cancels what gets nowhere.
STALL_CANCELLATION = "prefect-tune: experiments that get nowhere are cancelled"
#: The least that Prefect lets an automation wait for what does not come, in seconds.
MIN_SILENCE_S = 10.0
#: How many heartbeats may be missing before a flow run counts as dead.
_MISSED = 3

#: Events of an experiment, as docs/events.md describes them.
_EXPERIMENT_EVENTS = "prefect-tune.experiment."
STARTED = f"{_EXPERIMENT_EVENTS}started"
NEW_BEST = f"{_EXPERIMENT_EVENTS}new-best"
FRONT_CHANGED = f"{_EXPERIMENT_EVENTS}front-changed"
PLATEAU = f"{_EXPERIMENT_EVENTS}plateau"
FAILING = f"{_EXPERIMENT_EVENTS}failing"
FINISHED = f"{_EXPERIMENT_EVENTS}finished"

_HEARTBEAT = "prefect.flow-run.heartbeat"
#: After these, no heartbeat is expected.
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed", "Paused", "Suspended")


def install_crash_detection(
    *, silent_for_s: float | None = None, flow_run_tags: Sequence[str] = (), name: str = CRASH_DETECTION
) -> UUID:
    """Have the Prefect server mark flow runs Crashed whose process has fallen silent.

    When this returns, the server has exactly one automation of that name, with these values: it may
    be called again, as often as one likes. A flow run that is marked so can be tried again (`prefect
    flow-run retry`, or the UI), which goes on with its experiment. Heartbeats that the server misses while
    it is restarted count as missing, so allow for that.

    Args:
        silent_for_s: After how many seconds without a heartbeat, at least 10; None: three times the setting
            `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` of this process, which those of the flows must not exceed.
        flow_run_tags: Only flow runs with all of these tags; none: every flow run of the server, since an experiment
            may be part of any.
        name: The automation's name.

    Returns:
        The automation's id.

    Raises:
        ConfigError: A value cannot work, or heartbeats are switched off in this process.

    Example:
        >>> from tune_core.cli.automations import install_crash_detection
        >>> install_crash_detection(silent_for_s=300)  # doctest: +SKIP
        UUID('…')
    """
    return _install(_crash_detection(_silence(silent_for_s), flow_run_tags, name))


def install_notification(
    block: str,
    *,
    event: str = NEW_BEST,
    flow_run_tags: Sequence[str] = (),
    name: str | None = None,
) -> UUID:
    """Have the Prefect server send a message when an experiment has something to say.

    When this returns, the server has exactly one automation of that name, with these values.

    Args:
        block: A notification block that the server has, `"type-slug/name"`: `"slack-webhook/team"`.
        event: Which event of an experiment (docs/events.md), such as `NEW_BEST`, `FAILING`, `FINISHED`;
            of several metrics `FRONT_CHANGED` instead of `NEW_BEST`.
        flow_run_tags: Only experiments whose flow run has all of these tags; none: every experiment.
        name: The automation's name; None: one that names event and block.

    Returns:
        The automation's id.

    Raises:
        ConfigError: The event is not one of an experiment's, or the server has no such block.

    Example:
        >>> from tune_core.cli.automations import FINISHED, install_notification
        >>> install_notification("slack-webhook/team", event=FINISHED)  # doctest: +SKIP
        UUID('…')
    """
    _check_event(event)
    kind, _, block_name = block.partition("/")
    with get_client(sync_client=True) as client:
        try:
            document = client.read_block_document_by_name(block_name, kind)
        except ObjectNotFound:
            raise ConfigError(
                f"block={block!r}: the Prefect server has no such block; expected 'type-slug/name' of a notification "
                "block, such as 'slack-webhook/team'; `prefect block ls` lists them"
            ) from None
    what = event.removeprefix(_EXPERIMENT_EVENTS)
    return _install(
        AutomationCore(
            name=name or f"prefect-tune: {what} to {block}",
            description="Made by tune_core.cli.automations.install_notification of prefect-tune.",
            trigger=_experiment_trigger(event, flow_run_tags),
            actions=[
                SendNotification(
                    block_document_id=document.id,
                    subject=f"{what}: {{{{ event.resource['prefect.resource.name'] }}}}",
                    body="{% for key, value in event.payload.items() %}{{ key }}: {{ value }}\n{% endfor %}",
                )
            ],
        )
    )


def install_follow_up(
    deployment: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    flow_run_tags: Sequence[str] = (),
    name: str | None = None,
) -> UUID:
    """Have the Prefect server run a deployment, such as the model's, whenever an experiment has completed.

    One that was interrupted, or whose trials all failed, does not count.

    When this returns, the server has exactly one automation of that name, with these values.

    Args:
        deployment: The deployment, `"flow/name"`.
        parameters: For its flow; text may be a Jinja template over the event (docs/events.md), such as
            `"{{ event.payload.best_checkpoint }}"`.
        flow_run_tags: Only experiments whose flow run has all of these tags; none: every experiment.
        name: The automation's name; None: one that names the deployment.

    Returns:
        The automation's id.

    Raises:
        ConfigError: The server has no such deployment.

    Example:
        >>> from tune_core.cli.automations import install_follow_up
        >>> install_follow_up(
        ...     "publish-model/digits", parameters={"checkpoint": "{{ event.payload.best_checkpoint }}"}
        ... )  # doctest: +SKIP
        UUID('…')
    """
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError):
            raise ConfigError(
                f"deployment={deployment!r}: the Prefect server has no such deployment; expected 'flow/name', as "
                "`prefect deployment ls` shows them"
            ) from None
    return _install(
        AutomationCore(
            name=name or f"prefect-tune: run {deployment} after an experiment",
            description="Made by tune_core.cli.automations.install_follow_up of prefect-tune.",
            trigger=_experiment_trigger(FINISHED, flow_run_tags, **{"prefect-tune.outcome": "completed"}),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=found.id,
                    parameters=dict(parameters or {}),
                    job_variables=None,
                )
            ],
        )
    )


def install_stall_cancellation(
    silent_for_s: float, *, flow_run_tags: Sequence[str] = (), name: str = STALL_CANCELLATION
) -> UUID:
    """Have the Prefect server cancel experiments that live but get nowhere: none of their trials begins or ends.

    When this returns, the server has exactly one automation of that name, with these values. A cancelled
    experiment stops cleanly and can go on later; what has no process any more is for crash detection.

    Args:
        silent_for_s: After how many seconds without a trial that begins or ends, at least 10. Allow for the
            longest trial; `RunConfig(report_timeout_s=…)` finds a single one that hangs.
        flow_run_tags: Only experiments whose flow run has all of these tags; none: every experiment.
        name: The automation's name.

    Returns:
        The automation's id.

    Raises:
        ConfigError: `silent_for_s` cannot work.

    Example:
        >>> from tune_core.cli.automations import install_stall_cancellation
        >>> install_stall_cancellation(6 * 3600, flow_run_tags=["nightly"])  # doctest: +SKIP
        UUID('…')
    """
    signs = {STARTED, "prefect-tune.trial.*"}
    return _install(
        AutomationCore(
            name=name,
            description="Made by tune_core.cli.automations.install_stall_cancellation of prefect-tune.",
            trigger=EventTrigger(
                posture=Posture.Proactive,
                match=ResourceSpecification(
                    {"prefect.resource.id": [f"{_EXPERIMENT_EVENTS}*", "prefect-tune.trial.*"]}
                ),
                match_related=_with_tags(flow_run_tags),
                for_each={"related:flow-run:prefect.resource.id"},
                after=signs,
                expect={*signs, FINISHED},
                threshold=1,
                within=_silence(silent_for_s),
            ),
            actions=[CancelFlowRun()],
        )
    )


def _install(automation: AutomationCore) -> UUID:
    """Make it the one automation of its name."""
    with get_client(sync_client=True) as client:
        found = [each.id for each in client.read_automations_by_name(automation.name)]
        for other in found[1:]:
            client.delete_automation(other)
        if not found:
            return client.create_automation(automation)
        client.update_automation(found[0], automation)
        return found[0]


def _check_event(event: str) -> None:
    known = (STARTED, NEW_BEST, FRONT_CHANGED, PLATEAU, FAILING, FINISHED)
    if event not in known:
        raise ConfigError(f"event={event!r}: expected one of {', '.join(known)}")


def _experiment_trigger(event: str, tags: Sequence[str], **labels: str) -> EventTrigger:
    return EventTrigger(
        posture=Posture.Reactive,
        match=ResourceSpecification({"prefect.resource.id": f"{_EXPERIMENT_EVENTS}*", **labels}),
        match_related=_with_tags(tags),
        expect={event},
        threshold=1,
    )


def _with_tags(tags: Sequence[str]) -> list[ResourceSpecification | dict[str, str | list[str]]]:
    return [
        ResourceSpecification({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})
        for tag in tags
    ]


def _silence(silent_for_s: float | None) -> datetime.timedelta:
    if silent_for_s is None:
        every_s = get_current_settings().flows.heartbeat_frequency
        if every_s is None:
            raise ConfigError(
                "PREFECT_FLOWS_HEARTBEAT_FREQUENCY is not set, so flows send no heartbeats: set it to seconds (30 or "
                "more), here and where flows run"
            )
        silent_for_s = _MISSED * every_s
    if isinstance(silent_for_s, bool) or not MIN_SILENCE_S <= silent_for_s < float("inf"):
        raise ConfigError(f"silent_for_s={silent_for_s!r}: expected seconds, at least {MIN_SILENCE_S:g}")
    return datetime.timedelta(seconds=silent_for_s)


def _crash_detection(silence: datetime.timedelta, tags: Sequence[str], name: str) -> AutomationCore:
    return AutomationCore(
        name=name,
        description="Made by tune_core.cli.automations.install_crash_detection of prefect-tune.",
        enabled=True,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=_with_tags(tags),
            for_each={"prefect.resource.id"},
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=f"No heartbeat for {silence.total_seconds():g} s: its process has died.",
                force=False,
            )
        ],
    )
