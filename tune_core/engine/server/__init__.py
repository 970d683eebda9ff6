"""Which Prefect server an experiment uses, and how one is started for it."""
