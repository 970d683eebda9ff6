"""Runs experiments with Prefect and Ray. The only package, besides `cli`, that imports them.

This file imports nothing: Prefect's server loads the package for `tune_core.engine.store`.
"""
