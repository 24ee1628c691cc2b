"""Chips, the packed chip store, and splits."""
