"""Experiments on a virtual clock: real decisions, nothing runs. Simulated trials, and those of a journal."""
