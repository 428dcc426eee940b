"""Trains the model: data in, checkpoint out."""
