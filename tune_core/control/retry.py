"""What a run that is tried again may go on with."""

from __future__ import annotations

from tune_core.control.experiment import Experiment
from tune_core.control.resume import last_spec
from tune_core.control.segments import experiments
from tune_core.encoding import dumps, loads
from tune_core.errors import ExperimentConflict
from tune_core.validation import shorten


def refuse_another(current: Experiment) -> None:
    """Refuse a retry that tunes something else than the experiment that it would go on with.

    Raises:
        ExperimentConflict: Its trainable has another name, or its search space is another one.
        StorageError: The journal is damaged.
    """
    segments = experiments(current.storage).get(current.experiment_id, [])
    recorded = last_spec(segments, lambda spec: not spec.request_id)
    if recorded is None:
        return  # it died before it said what it was
    before, now = recorded.spec, loads(dumps(current.spec()))
    for part in ("trainable", "param_space"):
        if dumps(before[part]) != dumps(now[part]):
            raise ExperimentConflict(
                f"{current.storage.url}: this run began its experiment there ({current.experiment_id}) with "
                f"{part}={shorten(before[part])}, and is tried again with {part}={shorten(now[part])}. A retry goes "
                "on with what the run before it began: let it make the same calls of fit() in the same order, give "
                "each call that may come at another time a RunConfig(name=…) of its own, or begin a new run"
            )
