"""Optuna's samplers, at Ray Tune's import path; Optuna itself is imported when one is made."""

from tune_core.search.optuna.optuna_search import OptunaSearch

__all__ = ["OptunaSearch"]
