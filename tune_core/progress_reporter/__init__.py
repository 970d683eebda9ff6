"""What an experiment shows in a terminal, a notebook or a pipe while it runs."""
