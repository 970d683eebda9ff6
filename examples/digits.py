"""Tune a small neural network that reads handwritten digits, with every checkpoint on S3.

    python examples/digits.py                                   # an S3 server of its own, data in .demo/
    python examples/digits.py --storage s3://bucket/tuning      # yours: credentials from the environment
    python examples/digits.py --prefect-api http://host:4200/api

Without a Prefect API, one is started for the run; its database lies in .demo/ too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

import tune_core as tune
from tune_core.search import BasicVariantGenerator

DEMO = Path(__file__).resolve().parent.parent / ".demo"
WEIGHTS = "weights.npz"


def train_digits(config: dict[str, Any]) -> None:
    """Train epoch by epoch, reporting and saving after each; go on from a checkpoint if there is one."""
    train, validation, _ = load_images()
    with threadpool_limits(limits=1):  # trials run beside each other: one core each
        network = new_network(config, *train)
        first_epoch = 0
        checkpoint = tune.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as directory:
                first_epoch = load_weights(network, directory) + 1

        for epoch in range(first_epoch, config["epochs"]):
            # The order depends on the epoch alone: a resumed trial learns what it would have learnt.
            order = np.random.default_rng([config["seed"], epoch]).permutation(len(train[0]))
            network.partial_fit(train[0][order], train[1][order])
            with tempfile.TemporaryDirectory() as directory:
                save_weights(network, directory, epoch)
                tune.report(
                    {"accuracy": network.score(*validation), "loss": network.loss_},
                    checkpoint=tune.Checkpoint.from_directory(directory),
                )


def tune_digits(
    storage: str, storage_options: dict[str, Any] | None, args: argparse.Namespace, callback: tune.Callback
) -> tune.ResultGrid:
    tuner = tune.Tuner(
        train_digits,
        param_space={
            "learning_rate": tune.loguniform(3e-3, 0.5),
            "hidden_width": tune.choice([16, 32, 64, 128]),
            "alpha": tune.loguniform(1e-6, 1e-2),
            "batch_size": tune.choice([16, 32, 64]),
            "epochs": args.epochs,
            "seed": args.seed,
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=args.num_samples,
            max_concurrent_trials=args.max_concurrent,
            search_alg=BasicVariantGenerator(random_state=args.seed),
        ),
        run_config=tune.RunConfig(
            name=f"digits-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=storage,
            storage_options=storage_options,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="accuracy"),
            callbacks=[callback],
        ),
    )
    return tuner.fit()


Images = tuple[np.ndarray, np.ndarray]


def load_images() -> tuple[Images, Images, Images]:
    """Return pixels (n, 64) in 0..1 and digits (n,): 60 % to train, 20 % to validate, 20 % held out."""
    pixels, digits = load_digits(return_X_y=True)
    pixels = pixels / 16
    train_x, rest_x, train_y, rest_y = train_test_split(
        pixels, digits, test_size=0.4, random_state=0, stratify=digits
    )
    valid_x, held_x, valid_y, held_y = train_test_split(
        rest_x, rest_y, test_size=0.5, random_state=0, stratify=rest_y
    )
    return (train_x, train_y), (valid_x, valid_y), (held_x, held_y)


def new_network(config: dict[str, Any], pixels: np.ndarray, digits: np.ndarray) -> MLPClassifier:
    """Return a network after one step on one batch: that is what allocates scikit-learn's weights."""
    network = MLPClassifier(
        hidden_layer_sizes=(config["hidden_width"],),
        learning_rate_init=config["learning_rate"],
        alpha=config["alpha"],
        batch_size=config["batch_size"],
        solver="sgd",
        momentum=0.0,  # so the weights are the whole state of the optimiser
        nesterovs_momentum=False,
        shuffle=False,
        random_state=config["seed"],
    )
    batch = slice(config["batch_size"])
    return network.partial_fit(pixels[batch], digits[batch], classes=range(10))


def save_weights(network: MLPClassifier, directory: str, epoch: int) -> None:
    arrays = [*network.coefs_, *network.intercepts_]
    np.savez(Path(directory, WEIGHTS), *arrays, epoch=epoch)


def load_weights(network: MLPClassifier, directory: str) -> int:
    """Overwrite the network's weights; return the epoch after which they were saved."""
    with np.load(Path(directory, WEIGHTS)) as saved:
        for number, array in enumerate([*network.coefs_, *network.intercepts_]):
            array[...] = saved[f"arr_{number}"]
        return int(saved["epoch"])


class FirstTrial(tune.Callback):
    """Notes when the first trial starts, and in which flow run."""

    started_at: float | None = None
    flow_run_id: str | None = None

    def on_trial_start(self, *args: Any, **info: Any) -> None:
        """Called in the flow run."""
        if self.started_at is None:
            from prefect.runtime import flow_run

            self.started_at = time.monotonic()
            self.flow_run_id = flow_run.id


def main() -> int:
    """Tune, load the best checkpoint back from storage, and try it on images that no trial has seen."""
    args = parse_arguments()
    if args.prefect_api:
        os.environ["PREFECT_API_URL"] = args.prefect_api
    if not os.environ.get("PREFECT_API_URL"):
        os.environ["PREFECT_HOME"] = str(DEMO / "prefect")

    with ExitStack() as servers:
        begin = time.monotonic()
        storage, storage_options = (args.storage, None) if args.storage else start_s3_server(servers)
        s3_ready = time.monotonic()

        first_trial = FirstTrial()
        results = tune_digits(storage, storage_options, args, first_trial)
        tuned = time.monotonic()

        evaluate(results.get_best_result())
        end = time.monotonic()

    started = first_trial.started_at or tuned
    print(f"Prefect UI          {where_to_look(first_trial.flow_run_id)}")
    print(
        f"Seconds             {s3_ready - begin:.1f} S3 server, "
        f"{started - s3_ready:.1f} Prefect, Ray and the first trial's process, "
        f"{tuned - started:.1f} tuning, {end - tuned:.1f} evaluation"
    )
    return 1 if results.num_errors else 0


def start_s3_server(servers: ExitStack) -> tuple[str, dict[str, Any]]:
    """Start SeaweedFS until the stack is closed; return a URL in it and how to reach it."""
    from seaweedfs import start_seaweedfs

    print("Starting an S3 server …", flush=True)
    server = start_seaweedfs(DEMO / "s3", bucket="prefect-tune")
    servers.callback(server.stop)
    return f"s3://{server.bucket}/demo", server.storage_options


def evaluate(best: tune.Result) -> None:
    """Load the best checkpoint of the best trial; print how it does on the held-out images."""
    assert best.config is not None  # it has reported
    checkpoint = best.get_best_checkpoint(metric="accuracy", mode="max")
    train, _, held_out = load_images()
    network = new_network(best.config, *train)
    with checkpoint.as_directory() as directory:
        epoch = load_weights(network, directory)
    print(f"\nBest configuration  {best.config}")
    print(f"Best checkpoint     {checkpoint.filesystem.unstrip_protocol(checkpoint.path)}")
    print(
        f"Loaded from there   {network.score(*held_out):.1%} of {len(held_out[0])} held-out images are right"
    )
    print(f"                    (weights after epoch {epoch + 1})")


def where_to_look(flow_run_id: str | None) -> str:
    page = f"/runs/flow-run/{flow_run_id}" if flow_run_id else "/runs"
    api = os.environ.get("PREFECT_API_URL")
    if api:
        return api.removesuffix("/").removesuffix("/api") + page
    prefect = Path(sys.executable).with_name("prefect")
    return (
        f"http://127.0.0.1:4200{page}\n"
        f"                    after: PREFECT_HOME={os.environ['PREFECT_HOME']} {prefect} server start"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storage", metavar="URL", help="s3://bucket/path or file:///path")
    parser.add_argument("--prefect-api", metavar="URL", help="API of a running Prefect server")
    parser.add_argument("--num-samples", type=int, default=8, metavar="N", help="trials (default: 8)")
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="epochs per trial (default: 20)")
    parser.add_argument("--max-concurrent", type=int, metavar="N", help="trials at a time")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the search and the training")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
