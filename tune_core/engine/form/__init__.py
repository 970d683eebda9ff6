"""An experiment as plain values: the form in Prefect's UI, and experiments in files."""
