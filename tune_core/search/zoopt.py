"""Ray Tune's place of `ZOOptSearch`, which is not here."""

raise ImportError(
    "tune_core.search.zoopt: there is no ZOOptSearch here, since its package does not install beside this one's: use "
    "OptunaSearch(sampler='gp'), from tune_core.search.optuna"
)
