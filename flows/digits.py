"""A named flow: it tunes the digits example, and its form has these values as defaults."""

import tune_core as tune

digits = tune.experiment_flow(
    "tune-digits",
    "examples.digits:train_digits",
    param_space={
        "learning_rate": tune.loguniform(0.003, 0.5),
        "hidden_width": tune.choice([16, 32, 64, 128]),
        "alpha": tune.loguniform(1e-6, 1e-2),
        "batch_size": tune.choice([16, 32, 64]),
        "epochs": 20,
        "seed": 0,
    },
    tune_config=tune.TuneConfig(metric="accuracy", mode="max", num_samples=8),
    run_config=tune.RunConfig(
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="accuracy"),
        failure_config=tune.FailureConfig(max_failures=2),
    ),
)
