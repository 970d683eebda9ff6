"""The scripts, one module for each topic of the API."""
