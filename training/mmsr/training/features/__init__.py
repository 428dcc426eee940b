"""Turns the items' images and texts into frozen feature vectors, once per content."""
