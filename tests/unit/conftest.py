"""What every unit test runs under."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk() -> Iterator[None]:
    """Let writes stay in the page cache: no unit test takes the power away.

    test_checkpoint tests the order of the calls, tests/integration kills real processes.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
