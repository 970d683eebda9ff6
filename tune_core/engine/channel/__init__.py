"""How reports travel from trials to the driver."""
