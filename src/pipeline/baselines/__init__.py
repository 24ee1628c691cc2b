"""Predictions that no network made: the family of baselines, one file each."""
