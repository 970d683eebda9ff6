"""Where bytes go, and when they count: filesystems, transfers, commits and checkpoints."""
