"""Servers and faults that several tiers share."""
