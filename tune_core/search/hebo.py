"""Ray Tune's place of `HEBOSearch`, which is not here: to import it is an error that names what to use instead."""

from __future__ import annotations

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    if name == "HEBOSearch":
        raise ImportError(
            "tune_core.search.hebo: there is no HEBOSearch here, since its package is no longer kept up: use "
            "OptunaSearch(sampler='gp'), from tune_core.search.optuna"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
