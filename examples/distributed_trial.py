"""Tune a model whose every trial trains on several Ray workers at once, and goes on after a worker dies.

    python examples/distributed_trial.py
    python examples/distributed_trial.py --crash-at 3           # a worker dies; the trial resumes
    python examples/distributed_trial.py --storage s3://bucket/tuning --workers 8 --cpus-per-worker 2

Each trial holds one bundle per worker. A worker keeps a part of the data; in each step all of them
compute a gradient of the same weights, and the trial averages the gradients and takes the step.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util import get_current_placement_group

import tune_core as tune

WORK = Path(__file__).resolve().parent.parent / ".demo"
STATE = "state.npz"
FEATURES, CLASSES, EXAMPLES = 16, 4, 2400


class Worker:
    """One bundle's part of the data, and the gradients on it.

    Args:
        rank: Which part, from 0.
        workers: How many parts there are.
        seed: Of the data and the batches.
    """

    def __init__(self, rank: int, workers: int, seed: int) -> None:
        features, labels = make_data(seed, EXAMPLES)
        self._features, self._labels = features[rank::workers], labels[rank::workers]
        self._rank, self._seed = rank, seed

    def gradient(
        self, weights: np.ndarray, epoch: int, step: int, batch_size: int
    ) -> tuple[float, np.ndarray]:
        """Return loss and gradient on a batch, which depends on the place in the training alone."""
        random = np.random.default_rng([self._seed, self._rank, epoch, step])
        batch = random.choice(len(self._labels), size=batch_size, replace=False)
        features, labels = self._features[batch], self._labels[batch]
        chances = softmax(features @ weights)
        loss = -np.log(chances[np.arange(batch_size), labels]).mean()
        chances[np.arange(batch_size), labels] -= 1
        return float(loss), features.T @ chances / batch_size

    def group(self) -> str | None:
        """Return the placement group that this worker runs in."""
        return group_id()


def train_distributed(config: dict[str, Any]) -> None:
    """Train epoch by epoch, reporting and saving after each; go on from a checkpoint if there is one."""
    start: Any = ray.remote(num_cpus=config["cpus_per_worker"])(Worker)
    workers = [start.remote(rank, config["workers"], config["seed"]) for rank in range(config["workers"])]
    groups = {group_id(), *ray.get([worker.group.remote() for worker in workers])}
    held_out = make_data(config["seed"] + 1, EXAMPLES // 4)

    weights, velocity, first_epoch = np.zeros((FEATURES, CLASSES)), np.zeros((FEATURES, CLASSES)), 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory, np.load(Path(directory, STATE)) as state:
            weights, velocity, first_epoch = state["weights"], state["velocity"], int(state["epoch"]) + 1

    for epoch in range(first_epoch, config["epochs"]):
        if epoch == config["crash_at"] and checkpoint is None:
            ray.kill(workers[-1])  # as if its node were gone
        losses = []
        for step in range(config["steps_per_epoch"]):
            shared = ray.put(weights)  # one copy for each node
            parts = ray.get([w.gradient.remote(shared, epoch, step, config["batch_size"]) for w in workers])
            losses += [loss for loss, _ in parts]
            velocity = config["momentum"] * velocity + np.mean([gradient for _, gradient in parts], axis=0)
            weights = weights - config["learning_rate"] * velocity
        with tempfile.TemporaryDirectory() as directory:
            np.savez(Path(directory, STATE), weights=weights, velocity=velocity, epoch=epoch)
            tune.report(
                {
                    "loss": float(np.mean(losses)),
                    "accuracy": accuracy(weights, held_out),
                    "groups": len(groups),
                },
                checkpoint=tune.Checkpoint.from_directory(directory),
            )


def tune_distributed(args: argparse.Namespace) -> tune.ResultGrid:
    """Tune with one bundle for each worker; the trial itself, which only averages, takes none."""
    bundles = [{}, *[{"CPU": args.cpus_per_worker}] * args.workers]
    tuner = tune.Tuner(
        tune.with_resources(train_distributed, tune.PlacementGroupFactory(bundles)),
        param_space={
            "learning_rate": tune.grid_search([0.02, 0.5]),
            "momentum": 0.9,
            "batch_size": 32,
            "steps_per_epoch": 20,
            "epochs": args.epochs,
            "workers": args.workers,
            "cpus_per_worker": args.cpus_per_worker,
            "crash_at": args.crash_at,
            "seed": args.seed,
        },
        tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
        run_config=tune.RunConfig(
            storage_path=args.storage,
            failure_config=tune.FailureConfig(max_failures=1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    )
    return tuner.fit()


def make_data(seed: int, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, 16) and labels 0..3: one cloud for each class, which overlap."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, FEATURES))
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=examples)
    return centres[labels] + 1.5 * random.normal(size=(examples, FEATURES)), labels


def softmax(scores: np.ndarray) -> np.ndarray:
    powers: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def accuracy(weights: np.ndarray, data: tuple[np.ndarray, np.ndarray]) -> float:
    features, labels = data
    return float((np.argmax(features @ weights, axis=1) == labels).mean())


def group_id() -> str | None:
    group = get_current_placement_group()
    return group.id.hex() if group is not None else None


def main() -> int:
    """Tune, and load the best weights back from their checkpoint."""
    args = parse_arguments()
    if not os.environ.get("PREFECT_API_URL"):
        home = os.environ.setdefault("PREFECT_HOME", str(WORK / "prefect"))
        Path(home).mkdir(parents=True, exist_ok=True)
    results = tune_distributed(args)

    best = results.get_best_result()
    assert best.metrics is not None
    checkpoint = best.get_best_checkpoint(metric="accuracy", mode="max")
    with checkpoint.as_directory() as directory, np.load(Path(directory, STATE)) as state:
        held_out = accuracy(state["weights"], make_data(args.seed + 2, EXAMPLES // 4))
        digest = float(np.abs(state["weights"]).sum())
    print(f"\nBest learning rate  {best.metrics['config']['learning_rate']}")
    print(f"Placement groups    {best.metrics['groups']} for the trial and its {args.workers} workers")
    print(
        f"Loaded weights      {held_out:.1%} of {EXAMPLES // 4} held-out points are right (sum {digest:.12f})"
    )
    return 1 if results.num_errors else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", metavar="URL", default=str(WORK / "distributed"), help="URL or directory"
    )
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="per trial (default: 3)")
    parser.add_argument("--cpus-per-worker", type=float, default=0.5, metavar="N", help="(default: 0.5)")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="per trial (default: 8)")
    parser.add_argument("--crash-at", type=int, metavar="EPOCH", help="kill a worker of each trial, once")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the data and the training")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
