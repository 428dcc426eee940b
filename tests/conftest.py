"""What every test may use."""

import os

import pytest

# No test may reach for a model hub: weights come from the installed package or are made here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# With two workers and a whole file to each, a long file that begins last is waited for.
LONGEST_FIRST = (
    "test_soak",
    *("test_readme", "test_road", "test_mutations", "test_nightly", "test_kill_training"),
    "test_export_process",
    "test_kill_export",
    "test_kill_features",
    *("test_scenarios_of_a_server", "test_load_of_a_server"),
    *("test_gpu_check", "test_tensorrt_rtx"),
    *("test_gate", "test_fit", "test_warm_start", "test_transfer"),
    *("test_compare", "test_losses", "test_split", "test_extract", "test_final"),
    *("test_server_life", "test_ranks", "test_explain", "test_image_encoder", "test_prune"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files that take longest to the front."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))
