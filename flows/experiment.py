"""The experiment flow: its form in Prefect's UI takes any trainable. `prefect.yaml` deploys it by this file."""

from tune_core.engine.experiment import experiment

__all__ = ["experiment"]
