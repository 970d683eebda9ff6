"""BOHB's model-based search, at Ray Tune's import path; numpy is imported when one is made."""

from tune_core.search.bohb.bohb_search import TuneBOHB

__all__ = ["TuneBOHB"]
