"""Automations of the Prefect server that experiments lean on.

A flow process that is killed cannot say so: its flow run would be Running for ever, and nobody
would try it again. Prefect's flows send heartbeats; an automation has to listen to them.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import get_current_settings

from tune_core.errors import ConfigError

#: The automation's name, by which it is found again.
CRASH_DETECTION = "prefect-tune: flow runs without a heartbeat have crashed"
#: The least that Prefect lets an automation wait for what does not come, in seconds.
MIN_SILENCE_S = 10.0
#: How many heartbeats may be missing before a flow run counts as dead.
_MISSED = 3

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
        >>> from deployments.automations import install_crash_detection
        >>> install_crash_detection(silent_for_s=300)  # doctest: +SKIP
        UUID('…')
    """
    automation = _crash_detection(_silence(silent_for_s), flow_run_tags, name)
    with get_client(sync_client=True) as client:
        found = [each.id for each in client.read_automations_by_name(name)]
        for other in found[1:]:
            client.delete_automation(other)
        if not found:
            return client.create_automation(automation)
        client.update_automation(found[0], automation)
        return found[0]


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
    related: list[ResourceSpecification | dict[str, str | list[str]]] = [
        ResourceSpecification({"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"})
        for tag in tags
    ]
    return AutomationCore(
        name=name,
        description="Made by deployments.automations.install_crash_detection of prefect-tune.",
        enabled=True,
        trigger=EventTrigger(
            posture=Posture.Proactive,
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=related,
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
