"""The training engine, checkpoints and devices."""
