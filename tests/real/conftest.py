"""Where the real data are, and how much of them a run uses.

MMSR_DATA          folder with ml1m/, amazon-beauty/ and weights/; default ../shared/data beside
                   the project. A missing folder is an error here, never a skip.
MMSR_REAL_POSTERS  how many movies keep their poster (unset: all); .ci/run sets 150
MMSR_REAL_EPOCHS   epochs of training (unset: as the recipe says); .ci/run sets 1
"""

import os
from pathlib import Path

import pytest
from support.real_data import RealData

ROOT = Path(__file__).parents[2]
CI_POSTERS, CI_EPOCHS = 150, 1


def number_from(name: str, under_ci: int) -> int | None:
    """Read a count from the environment: unset is small under CI and unlimited elsewhere."""
    text = os.environ.get(name)
    if not text:
        return under_ci if os.environ.get("CI", "").lower() in ("1", "true", "yes") else None
    if not text.isdecimal() or int(text) == 0:
        pytest.fail(f"{name} is {text!r}; expected a whole number above zero", pytrace=False)
    return int(text)


@pytest.fixture(scope="session", autouse=True)
def real_data() -> RealData:
    """Find the data; every test of this folder fails without them."""
    root = Path(os.environ.get("MMSR_DATA") or "../shared/data")
    data = RealData(
        root=(ROOT / root).resolve(),  # an absolute MMSR_DATA wins
        posters=number_from("MMSR_REAL_POSTERS", CI_POSTERS),
        epochs=number_from("MMSR_REAL_EPOCHS", CI_EPOCHS),
    )
    for path in (data.ml1m, data.beauty, data.vgg_weights):
        if not path.exists():
            pytest.fail(
                f"{path} is not there; set MMSR_DATA to the folder with the real data "
                f"(it is {root})",
                pytrace=False,
            )
    return data
