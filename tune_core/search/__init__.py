"""Search spaces, and the searchers that choose configurations from them.

`space` has the words that users write, `domain` what they stand for, `variants` turns a space
into configurations, `searcher` is the contract of whatever chooses them, and `basic_variant` the
searcher that is used if none is given. `concurrency_limiter` and `repeater` wrap others, `optuna` has
Optuna's. None of them knows of trials, clusters or storage.
"""

from __future__ import annotations

from tune_core.search.basic_variant import BasicVariantGenerator
from tune_core.search.concurrency_limiter import ConcurrencyLimiter
from tune_core.search.create import create_searcher
from tune_core.search.repeater import Repeater
from tune_core.search.sample import (
    Categorical,
    Domain,
    Float,
    Function,
    Integer,
    fill_in,
    unresolved_paths,
)
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.space import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
    validate_space,
)
from tune_core.search.variants import Variant, experiment_tag, generate_variants, trial_dirname

__all__ = [
    "BasicVariantGenerator",
    "Categorical",
    "ConcurrencyLimiter",
    "Domain",
    "Float",
    "Function",
    "Integer",
    "Repeater",
    "Searcher",
    "Suggestion",
    "Variant",
    "choice",
    "create_searcher",
    "experiment_tag",
    "fill_in",
    "generate_variants",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "sample_from",
    "trial_dirname",
    "uniform",
    "unresolved_paths",
    "validate_space",
]
