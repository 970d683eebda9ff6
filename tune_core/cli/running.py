"""`run`, `resume` and `extend`: experiments that this process drives. Prefect and Ray are imported here only."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tune_core.cli.answer import Answer, ExitCode, Output
from tune_core.cli.experiment import read_experiment
from tune_core.cli.opening import Access, open_experiment
from tune_core.cli.reading import experiment_document, summary_text
from tune_core.cli.steering import assignments
from tune_core.config.spec import rebuild_run_config
from tune_core.control.resume import read_spec
from tune_core.errors import ConfigError, TuneError
from tune_core.registry import find_trainable
from tune_core.resources import PlacementGroupFactory
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.filesystems import resolve
from tune_core.training.resource_requests import with_resources
from tune_core.tuner import Tuner

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tune_core.engine.form.form import ExperimentForm

Flag = Annotated[bool, Parameter(negative="")]


def run(
    spec: Path,
    /,
    *,
    watch: Flag = False,
    name: str | None = None,
    warm_start: Sequence[str] = (),
    warm_start_points: int | None = None,
    output: Output | None = None,
) -> Answer:
    """Run the experiment that a YAML or JSON file describes, and wait for its end.

    The flow runs in this process; Ctrl-C stops its trials cleanly, so that `resume` goes on with them.
    Modules are looked for in the current directory, too.

    Args:
        spec: The file: what the deployments' parameters are, as docs/deployments.md has them.
        watch: Show progress while it runs (on stderr with --json).
        name: The experiment's name, instead of the one in the file.
        warm_start: An earlier experiment to learn from, instead of those in the file: a path or URL, also with *, a
            name below the storage, or deployment:FLOW/NAME. May be repeated.
        warm_start_points: How many of their best configurations are run first.
        output: How to answer.
    """
    import_from_here()
    from tune_core.engine.form.form import ExperimentForm

    form = ExperimentForm.load(spec)
    form = _warmed(form, warm_start, warm_start_points)
    if not watch:
        quiet = form.run_config.model_copy(update={"verbose": 0})
        form = form.model_copy(update={"run_config": quiet})
    try:
        tuner = form.tuner(name)
    except ImportError as error:  # an extra is missing: the message says which
        raise TuneError(str(error)) from error
    return _fit(tuner, form.trainable)


def _warmed(form: ExperimentForm, sources: Sequence[str], points: int | None) -> ExperimentForm:
    """Return the form with what was typed instead of its `warm_start`."""
    changes: dict[str, Any] = {"sources": list(sources)} if sources else {}
    changes |= {} if points is None else {"max_points": points}
    if not changes:
        return form
    values = form.model_dump(mode="json")
    tune = values.setdefault("tune_config", {})
    tune["warm_start"] = {**tune.get("warm_start", {}), **changes}
    if not tune["warm_start"].get("sources"):
        raise ConfigError("--warm-start-points without an earlier experiment: say which, with --warm-start")
    return type(form).read(values)


def resume(
    path: str,
    trainable: str | None = None,
    /,
    *,
    resume_errored: Flag = False,
    restart_errored: Flag = False,
    takeover: Flag = False,
    discard_damaged: Flag = False,
    watch: Flag = False,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Go on with an experiment where its journal ends, and wait for its end.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        trainable: Import string, package.module:name, of what it tunes: nothing that is stored is imported.
        resume_errored: Trials that failed go on from their last checkpoint.
        restart_errored: Trials that failed start over.
        takeover: Go on even if its driver seems to be alive: that one is fenced off.
        discard_damaged: Give up the journal from its first damaged segment on, as after a power cut: about
            a second of events for each segment.
        watch: Show progress while it runs (on stderr with --json).
        access: How to get to the storage.
        output: How to answer.
    """
    return _fit(
        _restored(
            path,
            trainable,
            access,
            command="resume",
            watch=watch,
            resume_errored=resume_errored,
            restart_errored=restart_errored,
            takeover=takeover,
            discard_damaged=discard_damaged,
        ),
        trainable,
    )


def extend(
    path: str,
    trainable: str | None = None,
    /,
    *,
    num_samples: int | None = None,
    stop: Sequence[str] = (),
    resources: Sequence[str] = (),
    takeover: Flag = False,
    discard_damaged: Flag = False,
    watch: Flag = False,
    access: Access | None = None,
    output: Output | None = None,
) -> Answer:
    """Go on with an experiment that has ended, or died, with more to do; wait for its end.

    Args:
        path: The experiment: STORAGE_PATH/NAME, a path or a URL.
        trainable: Import string, package.module:name, of what it tunes: nothing that is stored is imported.
        num_samples: How many samples there are to be, with those that it has.
        stop: A stop rule instead of those it has: --stop training_iteration=200. May be repeated.
        resources: What each trial gets from now on: --resources CPU=2 --resources GPU=1.
        takeover: Go on even if its driver seems to be alive: that one is fenced off.
        discard_damaged: Give up the journal from its first damaged segment on, as after a power cut: about
            a second of events for each segment.
        watch: Show progress while it runs (on stderr with --json).
        access: How to get to the storage.
        output: How to answer.
    """
    if num_samples is None and not stop and not resources:
        raise ConfigError("extend: nothing to extend, give --num-samples, --stop or --resources")
    return _fit(
        _restored(
            path,
            trainable,
            access,
            command="extend",
            watch=watch,
            resources=resources,
            num_samples=num_samples,
            stop=assignments(stop, "extend --stop", "training_iteration=200") if stop else None,
            takeover=takeover,
            discard_damaged=discard_damaged,
        ),
        trainable,
    )


def import_from_here() -> None:
    """Let import strings name modules of the current directory, as `python -m` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def _restored(
    path: str,
    trainable: str | None,
    access: Access | None,
    *,
    command: str,
    watch: bool,
    resources: Sequence[str] = (),
    discard_damaged: bool = False,
    **changes: Any,
) -> Tuner:
    storage, place = open_experiment(path, access)
    spec = read_spec(storage, discard_damaged=discard_damaged).spec
    if trainable is None:
        raise ConfigError(
            f"{command} {path}: say what it tunes, which is {spec['trainable']!r}, by its import string: "
            f"prefect-tune {command} {path} package.module:{spec['trainable']}"
        )
    import_from_here()
    found = find_trainable(trainable)
    if resources:
        found = with_resources(found, assignments(resources, f"{command} --resources", "CPU=2"))
    elif spec["resources"] is not None:  # given beside the trainable when it began, perhaps
        found = with_resources(found, PlacementGroupFactory.from_dict(spec["resources"]))
    run_config = rebuild_run_config(spec) if watch else rebuild_run_config(spec, verbose=0)
    return Tuner.restore(
        f"{place.url.rstrip('/')}/{storage.label}",
        found,
        storage_options=place.options,
        run_config=run_config,
        discard_damaged=discard_damaged,
        **changes,
    )


def _fit(tuner: Tuner, trainable: str | None) -> Answer:
    from prefect.settings import get_current_settings

    from tune_core.engine.settings import require_server

    if get_current_settings().api.url:
        require_server()  # else Prefect's client says so, in a traceback
    results = tuner.fit()
    filesystem, path, url = resolve(results.experiment_path, results.filesystem, None)
    reading = read_experiment(ExperimentStorage(filesystem, path, url, url.rpartition("/")[2]))
    if reading.has_succeeded:
        code = ExitCode.OK
    else:
        code = ExitCode.INTERRUPTED if reading.status == "interrupted" else ExitCode.FAILED

    def view(document: dict[str, Any]) -> Iterable[RenderableType]:
        yield summary_text(document)
        yield from reading.failure_lines()

        if document["status"] == "interrupted":
            command = [
                "prefect-tune",
                "resume",
                document["path"],
                trainable or f"MODULE:{document['trainable']}",
            ]
            yield f"go on with: {shlex.join(command)}"

    return Answer(experiment_document(reading), view, code)
