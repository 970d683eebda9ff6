"""The files next to each trial, written as Ray Tune writes them."""
