"""How well searchers and schedulers choose, at equal budgets, against the peers: `make bench-search`."""
