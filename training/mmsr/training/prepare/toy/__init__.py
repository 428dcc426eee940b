"""Generates a shop whose customers care for pictures, texts and categories."""
