"""Windowed inference with georeferenced output."""
