"""Measures a running server and the runner alone. Knows the contracts, never a model."""
