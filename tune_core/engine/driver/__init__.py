"""The driver of an experiment: it turns what happens into events, and commands into actions."""
