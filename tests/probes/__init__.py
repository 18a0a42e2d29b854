"""Probes of the contracts: objectives and towers that the package does not know, through the trainer as it is."""
