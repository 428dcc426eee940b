"""Fixtures of `mmsr-bench`."""

from support.bench_fixtures import behaviour, repository, target, twin

__all__ = ["behaviour", "repository", "target", "twin"]
