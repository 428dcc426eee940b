"""Serves a bundle over gRPC; never imports torch."""
