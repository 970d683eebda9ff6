"""What an experiment may learn from earlier ones: `WarmStart`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from tune_core.errors import ConfigError
from tune_core.storage.filesystems import check_url, without_credentials
from tune_core.validation import Validator, is_name, shorten, suggestion

#: What a source begins with that names a deployment: `deployment:FLOW/NAME`.
DEPLOYMENT = "deployment:"


@dataclass(frozen=True)
class WarmStart:
    """Earlier experiments that a new one learns from, read once, when it begins.

    Trials that ended without an error, and reported the metric, become observations of the searcher, each with its
    configuration and its last value, where their configuration is one of the new search space. What was
    taken is in the new experiment's journal: it goes on without the earlier ones.

    Args:
        sources: Where they are: paths or URLs of experiments, also with `*` or `@1`; names below the new
            experiment's `storage_path`; or `deployment:FLOW/NAME`, the latest completed runs of a deployment.
        max_points: How many of the best configurations are run first, the best one first, as `points_to_evaluate`
            would be; they count in `num_samples`. 0: none.
        metric: What the new experiment's metric was called there; None: the same.
        last_runs: Of a deployment, how many runs, at least 1.
        allow_running: Whether experiments that have not ended may be read, as far as they have come.

    Raises:
        ConfigError: A value cannot work; all faults are named together.

    Example:
        >>> WarmStart("s3://bucket/runs/digits-*", max_points=3).sources
        ('s3://bucket/runs/digits-*',)

    Source: beyond Ray Tune.
    """

    sources: str | Sequence[str]
    max_points: int = 0
    metric: str | None = None
    last_runs: int = 5
    allow_running: bool = False

    def __post_init__(self) -> None:
        validator = Validator("WarmStart")
        given: Any = self.sources
        listed = (given,) if isinstance(given, str) else given
        if not isinstance(listed, list | tuple) or not listed or not all(map(is_name, listed)):
            validator.add(
                "sources",
                given,
                "expected the path of an experiment, or several: a string, or a list of strings",
            )
            listed = ()
        for source in listed:
            _check_source(source, validator)
        object.__setattr__(self, "sources", tuple(listed))
        validator.check_integer("max_points", self.max_points, minimum=0)
        if self.metric is not None:
            validator.check_name("metric", self.metric, ": a metric of the earlier experiments, or None")
        validator.check_integer("last_runs", self.last_runs, minimum=1)
        validator.check_bool("allow_running", self.allow_running)
        validator.raise_any()

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments that differ from their defaults, as JSON has them."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        defaults = {each.name: each.default for each in fields(self) if each.default is not MISSING}
        told = {name: value for name, value in values.items() if value != defaults.get(name, ...)}
        return {**told, "sources": list(self.sources)}


def warm_start_of(given: Any) -> WarmStart | None:
    """Return a WarmStart from whatever it may be written as.

    Raises:
        ConfigError: It is none.

    Example:
        >>> warm_start_of({"sources": "digits", "max_points": 2}).max_points
        2
    """
    if given is None or isinstance(given, WarmStart):
        return given
    if not isinstance(given, Mapping):
        return WarmStart(given)
    known = [each.name for each in fields(WarmStart)]
    unknown = [str(name) for name in given if name not in known]
    if unknown or "sources" not in given:
        fault = (
            f"it has no argument {unknown[0]!r}{suggestion(unknown[0], known)}" if unknown else "no sources"
        )
        raise ConfigError(f"warm_start={shorten(dict(given))}: {fault}; a WarmStart has {', '.join(known)}")
    return WarmStart(**given)


def _check_source(source: str, validator: Validator) -> None:
    if source.startswith(DEPLOYMENT):
        flow, _, name = source.removeprefix(DEPLOYMENT).partition("/")
        if not flow or not name or "/" in name:
            validator.add(
                "sources", source, f"expected {DEPLOYMENT}FLOW/NAME, as `prefect deployment ls` shows it"
            )
        return
    if without_credentials(source) not in (source, source.rstrip("/")):
        validator.note(
            f"sources: {without_credentials(source)}: no credentials in URLs, which are shown: give them as "
            "RunConfig.storage_options"
        )
        return
    try:
        check_url(source)
    except ConfigError as error:
        validator.note(f"sources: {error}")
