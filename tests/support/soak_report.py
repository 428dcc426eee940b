"""A soak as a page and as JSON."""
from pathlib import Path

from support.soak_verdict import Soak


def write_report(path: Path, soak: Soak) -> None:
    """Write both."""
