"""Freezes a checkpoint into a proven bundle."""
