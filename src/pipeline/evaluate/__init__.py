"""Confusion counts per chip and the scores of a run."""
