"""The part of a form that says what happens when trials fail."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from tune_core.config.failure_config import FailureConfig
from tune_core.engine.form.fields import FormModel


class Factors(FormModel):
    """What the first bundle of a trial is multiplied by. Empty: nothing changes. Custom resources by their names."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "number"}})
    __pydantic_extra__: dict[str, float] = Field(init=False)
    CPU: float | None = Field(default=None, title="CPUs", gt=0)
    GPU: float | None = Field(default=None, title="GPUs", gt=0)
    memory: float | None = Field(default=None, title="Memory", gt=0)

    def factors(self) -> dict[str, float]:
        """Return the factors by resource."""
        return {**self.given(), **(self.__pydantic_extra__ or {})}


class ResourcesAfterForm(FormModel):
    """What a trial is tried again with, by what it died of."""

    oom: Factors = Field(default=Factors(), title="Out of memory", description="Comes before the others.")
    crashed: Factors = Field(default=Factors(), title="Crashed", description="Its process died.")
    timed_out: Factors = Field(default=Factors(), title="Timed out")
    lost: Factors = Field(default=Factors(), title="Lost", description="With its node, say.")
    error: Factors = Field(default=Factors(), title="Error", description="Its code raised.")

    def rules(self) -> dict[str, dict[str, float]] | None:
        """Return the factors by cause; None if there are none."""
        factors = {cause: each.factors() for cause, each in self.given().items()}
        return {cause: each for cause, each in factors.items() if each} or None


class FailureForm(FormModel):
    """What happens when an attempt at a trial fails."""

    makes: ClassVar[Any] = FailureConfig
    max_failures: int = Field(
        default=0,
        title="Tries after a failure",
        ge=-1,
        description="How often a trial goes on from its latest checkpoint after it failed; -1: for ever.",
    )
    fail_fast: bool = Field(
        default=False,
        title="Fail fast",
        description="Whether the first trial that fails ends the experiment.",
    )
    max_infrastructure_failures: int = Field(default=16, title="Tries after a loss", ge=-1)
    on_corrupted_checkpoint: Literal["fail", "previous"] = Field(
        default="fail", title="On a corrupted checkpoint"
    )
    max_failed_trials: float | None = Field(
        default=None,
        title="Failed trials",
        ge=0,
        description="So many trials may fail for good, or such a share of all, below 1; one more ends the "
        "experiment. Empty: any number.",
    )
    resources_after: ResourcesAfterForm = Field(default=ResourcesAfterForm(), title="Resources after a death")

    def make(self) -> FailureConfig:
        """Return the FailureConfig of these values.

        Raises:
            ConfigError: A value cannot work.
        """
        allowed = self.max_failed_trials
        is_number = allowed is not None and allowed == int(allowed)
        changed = {"max_failed_trials": int(allowed or 0)} if is_number else {}
        return FailureConfig(**{**self.given(), "resources_after": self.resources_after.rules(), **changed})
