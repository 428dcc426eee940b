"""How large a generated shop is."""

from dataclasses import dataclass

from mmsr.training.dataset import DataError

MIN_LENGTH = 3  # interactions a user: one to train on, one to validate, one to test
USUAL_LENGTH = 12
MAX_ITEMS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """The same settings make the same files, byte for byte."""

    items: int = 400
    users: int = 1500
    interactions: int = 18_000  # in all; a few fewer are made where a user runs out of items
    seed: int = 0
    image_size: int | None = 64  # pixels a side; None: no pictures

    def __post_init__(self) -> None:
        if not 1 <= self.items <= MAX_ITEMS or self.users < 1 or self.seed < 0:
            raise DataError(
                f"toy shop of {self.items} items and {self.users} users, seed {self.seed}; "
                f"expected 1 to {MAX_ITEMS} items, at least one user, a seed of 0 or more"
            )
        if self.interactions < MIN_LENGTH * self.users:
            raise DataError(
                f"toy shop of {self.users} users and {self.interactions} interactions; "
                f"expected at least {MIN_LENGTH} a user, {MIN_LENGTH * self.users} in all"
            )
        if self.interactions > self.users * self.items // 2:
            raise DataError(
                f"toy shop: {self.interactions / self.users:.1f} interactions a user of "
                f"{self.items} items; nobody buys an item twice, so expected at most half of them"
            )
        if self.image_size is not None and not 16 <= self.image_size <= 1024:
            raise DataError(f"image size {self.image_size}; expected 16 to 1024 pixels")


def usual_interactions(items: int, users: int) -> int:
    """Return how many interactions a shop of that size has if nobody says."""
    return users * max(MIN_LENGTH, min(USUAL_LENGTH, items // 2))
