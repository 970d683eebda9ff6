"""Placement groups and the processes in them, given to trials in the order in which they asked."""
