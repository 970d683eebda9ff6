"""`replay`: what another scheduler would have made of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from tune_core.cli.answer import Answer, Output
from tune_core.cli.cells import fields, parameters, table, varied
from tune_core.cli.opening import Access, open_experiment
from tune_core.errors import ConfigError
from tune_core.schedulers import TrialScheduler
from tune_core.schedulers.by_name import schedulers
from tune_core.simulation.whatif import ReplayResult, replay_stored
from tune_core.text import duration, short
from tune_core.validation import shorten, suggestion

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Options of the command itself: no option of a scheduler has one of these names here.
_OWN = ("metric", "mode")
_FATES = {
    "completed": "completed",
    "failed": "failed",
    "stopped": "stopped",
    "unknown": "unknown from here",
    "unfinished": "unfinished",
}


def replay(
    path: str,
    /,
    *,
    scheduler: str | None = None,
    scheduler_file: Path | None = None,
    slots: int | None = None,
    metric: str | None = None,
    mode: Literal["min", "max"] | None = None,
    limit: int = 50,
    access: Access | None = None,
    output: Output | None = None,
    **options: Annotated[str, Parameter(help="Options of the scheduler, such as --reduction-factor 4.")],
) -> Answer:
    """Say what another scheduler would have made of an experiment, from the curves in its journal.

    Nothing runs and nothing is written. Trials are the recorded ones; where the scheduler lets one go on beyond
    its recorded end, it is "unknown from here", and the costs are lower bounds. Without --scheduler, the recorded
    one repeats its decisions.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        scheduler: Its name, such as asha; its options follow: --max-t 81 --reduction-factor 3.
        scheduler_file: A YAML or JSON file instead, as in the experiment's: {asha: {max_t: 81}}.
        slots: How many trials run at once; none: as many as did.
        metric: Compare trials by this metric, with --mode.
        mode: min or max.
        limit: Rows of the table at most; --json has all.
        access: How to get to the storage.
        output: How to answer.
        options: Of the scheduler.
    """
    made = _scheduler_of(scheduler, scheduler_file, options)
    storage, place = open_experiment(path, access)
    result = replay_stored(storage, made, slots=slots, metric=metric, mode=mode)
    document = {"experiment": f"{place.url.rstrip('/')}/{storage.label}", **result.to_dict()}
    return Answer(document, lambda shown: _view(shown, result, limit))


def _scheduler_of(name: str | None, file: Path | None, options: Mapping[str, str]) -> TrialScheduler | None:
    if file is not None:
        if name is not None or options:
            raise ConfigError("--scheduler-file: it says the scheduler and its options; give no others")
        return _from_file(file)
    if name is None:
        if options:
            given = ", ".join(f"--{option}" for option in options)
            raise ConfigError(
                f"replay: no such option{'s' if len(options) > 1 else ''}: {given}"
                f"{suggestion(next(iter(options)), ('slots', 'metric', 'mode', 'limit', 'scheduler'))}; "
                "options of a scheduler need --scheduler NAME"
            )
        return None
    return new_scheduler(name, {key.replace("-", "_"): _value(text) for key, text in options.items()})


def _value(text: str) -> Any:
    """Return what was typed: JSON where it can be (also True, None), else the text."""
    try:
        return json.loads({"True": "true", "False": "false", "None": "null"}.get(text, text))
    except ValueError:
        return text


def _from_file(file: Path) -> TrialScheduler:
    from tune_core.engine.form.fields import tagged
    from tune_core.engine.form.yaml12 import read_yaml

    try:
        content = read_yaml(file.expanduser().read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--scheduler-file {file} cannot be read: {error}") from None
    if isinstance(content, Mapping) and [*content] == ["scheduler"]:
        content = content["scheduler"]
    name, options = tagged(content)
    if name is None or not isinstance(options, Mapping):
        raise ConfigError(
            f"--scheduler-file {file}: {shorten(content)}: expected a scheduler's name with its options, such as "
            "{asha: {max_t: 81}}"
        )
    return new_scheduler(name, options)


def new_scheduler(name: str, options: Mapping[str, Any]) -> TrialScheduler:
    """Return a new scheduler.

    Args:
        name: As in `create_scheduler`.
        options: Arguments of its constructor, as JSON has them.

    Raises:
        ConfigError: There is none of this name, it has no such option, or a value cannot work.

    Example:
        >>> type(new_scheduler("asha", {"max_t": 81})).__name__
        'AsyncHyperBandScheduler'
    """
    from pydantic import ValidationError

    from tune_core.engine.form.fields import KIND, option_form

    known = schedulers()
    kind = known.get(name.lower())
    if kind is None:
        raise ConfigError(f"--scheduler {name}: expected one of {', '.join(known)}{suggestion(name, known)}")
    form = option_form(name.lower(), kind, _OWN)
    if form is None:
        raise ConfigError(
            f"--scheduler {name}: it can be made in Python only: tune.replay(path, scheduler=…)"
        )
    names = [each for each in form.model_fields if each != KIND]
    for option in options:
        if option not in names:
            spelt = [each.replace("_", "-") for each in names]
            raise ConfigError(
                f"--{option.replace('_', '-')}: {name} has no such option"
                f"{suggestion(option.replace('_', '-'), spelt)}; it has --{', --'.join(spelt)}"
            )
    try:
        read = form(**{KIND: name.lower()}, **options)
    except ValidationError as error:
        faults = [_fault(each) for each in error.errors()]
        raise ConfigError([*dict.fromkeys(faults)]) from None
    return kind(**{option: getattr(read, option) for option in options})


def _fault(error: Any) -> str:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Exception):  # of the constructor: it names the argument
        return str(cause)
    option = str(error["loc"][0]).replace("_", "-") if error["loc"] else "options"
    text = error["msg"]
    return f"--{option} {shorten(error['input'])}: {text[0].lower()}{text[1:]}"


def _view(document: dict[str, Any], result: ReplayResult, limit: int) -> Iterator[RenderableType]:
    at_least = "at least " if result.unknown else ""
    yield fields(
        {
            "experiment": document["experiment"],
            "scheduler": f"{result.scheduler} {parameters(result.options)}".strip(),
            "trials": f"{len(result.trials)}: "
            + ", ".join(f"{count} {_FATES[fate]}" for fate, count in document["num_by_fate"].items()),
            "best": _best(result),
        }
    )
    yield ""
    recorded, now = result.recorded, result.cost
    rows = [
        ["reports", str(recorded.reports), f"{at_least}{now.reports}", _share(now.reports, recorded.reports)],
        [
            "trial time",
            duration(recorded.trial_seconds),
            f"{at_least}{duration(now.trial_seconds)}",
            _share(now.trial_seconds, recorded.trial_seconds),
        ],
        [
            f"wall clock, {result.slots} at once",
            duration(recorded.wall_seconds)
            + (f" ({result.recorded_slots} at once)" if result.slots != result.recorded_slots else ""),
            f"{at_least}{duration(now.wall_seconds)}",
            _share(now.wall_seconds, recorded.wall_seconds),
        ],
    ]
    yield table({"COST": "left", "RECORDED": "right", "REPLAYED": "right", "": "right"}, rows)
    yield ""
    yield from _trials(result, limit)
    for note in result.notes:
        yield f"note: {note}"


def _share(now: float, recorded: float) -> str:
    return f"{100 * now / recorded:.0f}%" if recorded else ""


def _best(result: ReplayResult) -> str:
    if result.recorded_best is None:
        return ""
    was = f"{result.metric}={short(result.recorded_score, 6)} of {result.recorded_best}"
    now = f"{short(result.score, 6)} of {result.best}" if result.best is not None else "nothing"
    if result.loses_best is False:
        kept = result.best == result.recorded_best
        return f"{was}: kept" if kept else f"{was}: as good, {now}"
    if result.loses_best:
        return f"{was}: LOST, {now} instead"
    return f"{was}: not known, {now} so far"


def _trials(result: ReplayResult, limit: int) -> Iterator[RenderableType]:
    sign = -1 if result.mode == "max" else 1
    ranked = sorted(
        result.trials,
        key=lambda each: (each.recorded_score is None, sign * (each.recorded_score or 0.0)),
    )
    names = varied([each.config for each in result.trials])
    columns = {"TRIAL": "left", "REPLAYED": "fold", "ITER": "right", "OF": "right"}
    columns |= {f"{result.metric}": "right"} if result.metric else {}
    columns |= {"PARAMETERS": "fold"}
    rows = [
        [
            each.trial_id,
            _FATES[each.fate],
            str(each.iterations),
            str(each.recorded_iterations),
            *([short(each.score, 6)] if result.metric else []),
            parameters(each.config, names),
        ]
        for each in ranked[:limit]
    ]
    if rows:
        yield table(columns, rows)
    if len(ranked) > limit:
        yield f"… and {len(ranked) - limit} more trials: --limit {len(ranked)} shows all"
