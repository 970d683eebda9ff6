"""Ray Tune's place of `HEBOSearch`, which is not here."""

raise ImportError(
    "tune_core.search.hebo: there is no HEBOSearch here, since its package does not install beside this one's: use "
    "OptunaSearch(sampler='gp'), from tune_core.search.optuna"
)
