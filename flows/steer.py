"""The steer flow: pauses, stops or extends an experiment that runs. `prefect.yaml` deploys it by this file."""

from tune_core.engine.steer import steer

__all__ = ["steer"]
