"""Runs and comparisons as pages to look at."""
