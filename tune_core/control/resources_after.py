"""Other bundles for the next attempt, by what the one before died of: `FailureConfig.resources_after`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tune_core.errors import ConfigError
from tune_core.resources import PlacementGroupFactory
from tune_core.states import CAUSES, OUT_OF_MEMORY, Outcome

#: Exceptions by which a trainable says that memory was short, its own or the GPU's.
_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
#: The same, as texts of older frameworks have it.
_MEMORY_TEXTS = ("CUDA out of memory", "RESOURCE_EXHAUSTED: Out of memory")


def cause_of_death(outcome: Outcome, error: str | None) -> str | None:
    """Return what an attempt died of, as `FailureConfig.resources_after` names it; None: of nothing of the kind.

    Args:
        outcome: How it ended.
        error: Its error, on one line.

    Example:
        >>> cause_of_death(Outcome.ERROR, "torch.OutOfMemoryError: CUDA out of memory")
        'oom'
        >>> cause_of_death(Outcome.CRASHED, "the trial's process died: SIGKILL")
        'crashed'
    """
    text = error or ""
    kind = text.partition(":")[0].rpartition(".")[2]
    is_raised = outcome is Outcome.ERROR and (
        kind in _MEMORY_ERRORS or any(each in text for each in _MEMORY_TEXTS)
    )
    if is_raised or (outcome is Outcome.LOST and OUT_OF_MEMORY in text):
        return "oom"
    return str(outcome) if outcome in CAUSES else None


def factors_after(
    rules: Mapping[str, Mapping[str, float]], outcome: Outcome, error: str | None
) -> Mapping[str, float] | None:
    """Return the factors for an end; of a death for lack of memory, else those of its kind; None: there are none.

    Example:
        >>> factors_after({"lost": {"CPU": 2.0}}, Outcome.LOST, "out of memory: its node ran low")
        {'CPU': 2.0}
    """
    cause = cause_of_death(outcome, error)
    return rules.get(cause or "") or rules.get(str(outcome))


def enlarged(resources: PlacementGroupFactory, factors: Mapping[str, float]) -> PlacementGroupFactory:
    """Return these bundles with the amounts of the first one multiplied.

    Args:
        resources: Of the attempt that died.
        factors: By resource. GPUs are rounded up to whole ones above 1, memory to whole bytes.

    Raises:
        ConfigError: The first bundle has nothing of a resource.

    Example:
        >>> enlarged(PlacementGroupFactory([{"CPU": 1, "memory": 2**30}, {"CPU": 4}]), {"memory": 1.5}).bundles
        [{'CPU': 1.0, 'memory': 1610612736.0}, {'CPU': 4.0}]
    """
    data = resources.to_dict()
    first = data["bundles"][0]
    for name, factor in factors.items():
        if not first.get(name):
            raise ConfigError(
                f"resources_after multiplies {name} by {factor:g}, and the first bundle of {resources} has none: "
                f"ask for some with tune.with_resources"
            )
        first[name] *= factor
        if name == "memory" or (name == "GPU" and first[name] > 1):
            first[name] = float(math.ceil(first[name] - 1e-9))
    return PlacementGroupFactory.from_dict(data)
