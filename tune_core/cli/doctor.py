"""`doctor`: whether experiments would run here, and what to do if not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tune_core.cli.answer import Answer, ExitCode, Output
from tune_core.cli.opening import Access, place_of
from tune_core.text import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def doctor(
    *,
    storage: str | None = None,
    ray: Annotated[bool, Parameter(negative="--no-ray")] = True,
    ray_address: str | None = None,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Check versions, server, storage and Ray as an experiment that starts here would meet them.

    Exits with 1 if a check failed; warnings do not count.

    Args:
        storage: A path or URL to try, where a probe object is written and removed; none: the configured place.
        ray: Whether to connect to Ray, or start it, and look around on each node.
        ray_address: The cluster, as ray.init takes it; none: the configured one, else a local one is started.
        access: How to get to the storage.
        output: How to answer.
    """
    from prefect.settings import get_current_settings

    from tune_core.cli.checks import check_server, check_storage, check_versions, worst
    from tune_core.engine.settings import tune_settings

    place = place_of(storage, access)
    checks = [*check_versions(), *check_server(), *check_storage(place.url, place.options)]
    if ray:
        from tune_core.cli.ray_checks import check_ray

        address = ray_address or tune_settings().ray_address
        checks += check_ray(address, get_current_settings().api.url, place.url, place.options)
    outcome = worst(checks)
    document = {"outcome": outcome, "checks": [asdict(check) for check in checks]}
    return Answer(document, _view, ExitCode.FAILED if outcome == "fail" else ExitCode.OK)


def _view(document: dict[str, Any]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold", max_width=32)
    drawn.add_column(overflow="fold", ratio=1)
    for check in document["checks"]:
        remedy = f"\n→ {printable(check['remedy'])}" if check["remedy"] else ""
        outcome = check["outcome"]
        drawn.add_row(
            Text(outcome, _STYLES[outcome]), Text(check["name"]), Text(printable(check["found"]) + remedy)
        )
    yield drawn
