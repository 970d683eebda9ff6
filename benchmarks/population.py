"""Population based training against the best fixed hyperparameters: python benchmarks/population.py [--seeds 5].

Runs in this process, on storage in memory. Two problems: the two-parameter toy of the paper (arXiv:1711.09846,
section 4.1), and a small network that reads handwritten digits by plain SGD with batches of 4, for which a high
learning rate is good at first and a low one in the end. Every run has as many trials, and each of them as many epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tune_core as tune
from tune_core.schedulers import PB2, PopulationBasedTraining, TrialScheduler
from tune_core.testing.local_runtime import LocalRuntime

#: Learning rates that are tried as fixed ones, and between which populations search.
RATES = [0.003, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.8]
EPOCHS, INTERVAL = 24, 2


def restored() -> dict[str, Any]:
    """Return the arrays of the checkpoint that this attempt starts from; {} without one."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as directory, np.load(Path(directory, "state.npz")) as saved:
        return dict(saved)


def report(metrics: dict[str, Any], **state: Any) -> None:
    """Report with a checkpoint of these arrays."""
    with tempfile.TemporaryDirectory() as directory:
        np.savez(Path(directory, "state.npz"), **state)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))


def quadratic(config: dict[str, Any]) -> None:
    """Climb 1.2 - h0 x0^2 - h1 x1^2, and report 1.2 - x0^2 - x1^2, which nobody can follow directly."""
    state = restored()
    theta, first = state.get("theta", np.array([0.9, 0.9])), int(state.get("step", 0))
    scales = np.array([config["h0"], config["h1"]])
    for step in range(first + 1, 61):
        theta = theta - 0.02 * 2 * scales * theta
        report({"score": 1.2 - float(theta @ theta)}, theta=theta, step=step)


def digits() -> tuple[Any, ...]:
    """Return images and labels to train with, to choose by, and to test with."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = (images / 16.0 - 0.3)[order], labels[order]
    return images[:600], labels[:600], images[600:1100], labels[600:1100], images[1100:], labels[1100:]


def network(config: dict[str, Any]) -> None:
    """Train a network of 24 hidden units by plain SGD; report its loss on images that it has not seen."""
    images, labels, chosen, chosen_labels, tested, tested_labels = digits()
    state, rng = restored(), np.random.default_rng(config["seed"])
    inner = state.get("inner", rng.normal(0, 0.15, (64, 24)))
    outer = state.get("outer", rng.normal(0, 0.15, (24, 10)))
    for epoch in range(int(state.get("epoch", 0)) + 1, EPOCHS + 1):
        order = np.random.default_rng([config["seed"], epoch]).permutation(len(images))
        for batch in order.reshape(-1, 4):
            x, hidden, odds = _forward(images[batch], inner, outer)
            odds[np.arange(len(batch)), labels[batch]] -= 1
            back = (odds @ outer.T) * (hidden > 0)
            outer = outer - config["lr"] * (hidden.T @ odds) / len(batch)
            inner = inner - config["lr"] * (x.T @ back) / len(batch)
        loss = _loss(chosen, chosen_labels, inner, outer)
        test = _loss(tested, tested_labels, inner, outer)
        report({"loss": loss, "test_loss": test}, inner=inner, outer=outer, epoch=epoch)


def _forward(x: Any, inner: Any, outer: Any) -> tuple[Any, Any, Any]:
    hidden = np.maximum(x @ inner, 0)
    scores = hidden @ outer
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return x, hidden, odds / odds.sum(axis=1, keepdims=True)


def _loss(images: Any, labels: Any, inner: Any, outer: Any) -> float:
    _, _, odds = _forward(images, inner, outer)
    return float(-np.log(odds[np.arange(len(labels)), labels] + 1e-12).mean())


def run(
    trainable: Any, space: dict[str, Any], scheduler: TrialScheduler | None, metric: str, mode: Any, name: str
) -> tune.ResultGrid:
    """Run an experiment in this process; return its results."""
    tuner = tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(metric=metric, mode=mode, scheduler=scheduler),
        run_config=tune.RunConfig(name=name, storage_path="memory://population", verbose=0),
    )
    return LocalRuntime().run(tuner.experiment())


def toy(seed: int) -> tuple[float, float]:
    """Return the best last score of two fixed workers, and of a population of the same two."""
    space = {"h0": tune.grid_search([1.0, 0.0]), "h1": tune.sample_from(lambda config: 1.0 - config["h0"])}
    mutations = {"h0": tune.uniform(0, 1), "h1": tune.uniform(0, 1)}
    pbt = PopulationBasedTraining(
        "training_iteration",
        perturbation_interval=4,
        hyperparam_mutations=mutations,
        quantile_fraction=0.5,
        seed=seed,
    )
    scores = [
        run(quadratic, space, scheduler, "score", "max", f"toy-{name}-{seed}")
        .get_best_result()
        .metrics["score"]
        for name, scheduler in (("fixed", None), ("pbt", pbt))
    ]
    return scores[0], scores[1]


def population(kind: str, seed: int) -> TrialScheduler | None:
    """Return a scheduler for the network; None for fixed learning rates."""
    if kind == "fixed":
        return None
    if kind == "PB2":
        return PB2("training_iteration", None, None, INTERVAL, {"lr": [0.003, 0.8]}, seed=seed)
    return PopulationBasedTraining(
        "training_iteration",
        perturbation_interval=INTERVAL,
        hyperparam_mutations={"lr": tune.loguniform(0.003, 0.8)},
        perturbation_factors=(0.5, 2.0),
        resample_probability=0.1,
        synch=kind == "PBT, synch",
        seed=seed,
    )


def trained(kind: str, seed: int) -> tuple[float, float]:
    """Return the loss on validation images of the best of eight networks at their last epoch, and on test images."""
    space = {"lr": tune.grid_search(RATES), "seed": seed}
    scheduler = population(kind, seed)
    best = run(network, space, scheduler, "loss", "min", f"network-{kind}-{seed}").get_best_result()
    return best.metrics["loss"], best.metrics["test_loss"]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    print("toy: best last score of two workers after 60 steps (1.2 is the optimum)")
    for seed in seeds:
        fixed, perturbed = toy(seed)
        print(f"  seed {seed}: fixed {fixed:.4f}, population {perturbed:.4f}", flush=True)
    print(f"network: loss of the best of {len(RATES)} after {EPOCHS} epochs each, validation / test")
    for kind in ("fixed", "PBT", "PBT, synch", "PB2"):
        losses = [trained(kind, seed) for seed in seeds]
        each = ", ".join(f"{chosen:.3f} / {test:.3f}" for chosen, test in losses)
        means = [statistics.fmean(values) for values in zip(*losses, strict=True)]
        print(f"  {kind}: {each}; mean {means[0]:.4f} / {means[1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
