"""What happens inside one attempt at a trial. Runs in the trial's process."""
