"""What follows from what: the state machine of an experiment, its journal, and how it goes on after a death."""
