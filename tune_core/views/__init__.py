"""How an experiment looks: its numbers, charts, pages and notifications."""
