"""What the Prefect UI shows of an experiment."""
