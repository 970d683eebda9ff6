"""`serve` and `automations install`: experiments that begin and end by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_core.cli.answer import Answer, Output
from tune_core.cli.running import import_from_here
from tune_core.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType


def serve(
    spec: Path,
    /,
    *,
    name: str | None = None,
    cron: str | None = None,
    interval: float | None = None,
    timezone: str | None = None,
    limit: int = 1,
    output: Output | None = None,
) -> Answer:
    """Serve the experiment of a file as a deployment, and run on this machine what is due, until Ctrl-C.

    Runs can be asked for in the UI as well. Needs a Prefect server.

    Args:
        spec: The YAML or JSON file, as for `run`.
        name: The deployment's name; none: that of the file.
        cron: When to run, as five fields: "30 2 * * *".
        interval: Seconds between the beginnings of runs.
        timezone: What the hours of cron mean, such as Europe/Berlin; none: UTC.
        limit: How many runs may be at work at once; others wait for them.
        output: How to answer.
    """
    import_from_here()
    from tune_core.cli.serve import serve as serve_form
    from tune_core.engine.form.form import ExperimentForm

    form, deployment = ExperimentForm.load(spec), name or spec.stem
    serve_form(form, deployment, cron=cron, interval_s=interval, timezone=timezone, limit=limit)
    return Answer({"deployment": deployment, "status": "ended"}, _served)


def _served(document: dict[str, Any]) -> Iterator[RenderableType]:
    yield f"{document['deployment']} is served no more; its schedules are paused"


def install_automations(
    file: Path | None = None,
    /,
    *,
    silent_for: float | None = None,
    tag: list[str] | None = None,
    output: Output | None = None,
) -> Answer:
    """Have the Prefect server mark flow runs Crashed whose process is gone, or do what a file describes.

    May be called again: the server then has each automation once, with the new values.

    Args:
        file: A YAML file of automations, such as deployments/automations.yaml; none: crash detection alone.
        silent_for: Seconds without a heartbeat, at least 10; none: three times the heartbeats' interval.
        tag: Only flow runs with this tag; may be repeated; none: every flow run of the server.
        output: How to answer.
    """
    from tune_core.cli.automation_file import install_file
    from tune_core.cli.automations import install_crash_detection
    from tune_core.engine.settings import require_server

    if file is not None and (silent_for is not None or tag):
        raise ConfigError("--silent-for and --tag are written in the file, as silent_for_s and flow_run_tags")
    require_server()
    if file is not None:
        installed = install_file(file)
    else:
        found = install_crash_detection(silent_for_s=silent_for, flow_run_tags=tag or ())
        installed = [("crash_detection", found)]
    return Answer({"automations": [{"kind": kind, "id": str(each)} for kind, each in installed]}, _installed)


def _installed(document: dict[str, Any]) -> Iterator[RenderableType]:
    for each in document["automations"]:
        yield f"installed {each['kind']} ({each['id']})"
