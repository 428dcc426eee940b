"""Item ids to numbers and back for a catalogue that changes. Knows nothing of rows or storage.

Read and changed on the event loop's thread alone.
"""

from bisect import bisect_left, insort

from mmsr.bundle.catalogue import Catalogue
from mmsr.engine.items import ItemIndex


class LiveIndex(ItemIndex):
    """What the bundle has, and what was added to it and removed from it since.

    `capacity`: rows of the tables; numbers from there on belong to no row.
    """

    def __init__(self, catalogue: Catalogue, capacity: int) -> None:
        super().__init__(catalogue)
        self._trained = len(catalogue)
        self._ids += [""] * (capacity - len(self._ids))
        self._added: list[str] = []
        self._removed: dict[str, int] = {}  # the trained rows of ids that were removed

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._rows

    def number_of(self, item_id: str) -> int | None:
        """Return an item's number; None if it is not there."""
        return self._rows.get(item_id)

    def trained_row(self, item_id: str) -> int:
        """Return which trained id an item has, there or not; 0: none."""
        number = self._rows.get(item_id, 0)
        return number if 0 < number <= self._trained else self._removed.get(item_id, 0)

    @property
    def next_number(self) -> int:
        """The number that no item has had yet and that is no row."""
        return len(self._ids)

    @property
    def added(self) -> list[str]:
        """The ids of items without a trained id, in their order."""
        return self._added

    def name(self, item_id: str, number: int) -> None:
        """Let answers find the name of an item that is not there yet: they may meet it before."""
        if number >= len(self._ids):
            self._ids += [""] * (number + 1 - len(self._ids))
        self._ids[number] = item_id

    def add(self, item_id: str, number: int) -> None:
        """Let an item be there, under a number that none has had."""
        trained = self.trained_row(item_id)
        self.name(item_id, number)
        self._rows[item_id] = number
        if not trained:
            insort(self._added, item_id)

    def remove(self, item_id: str) -> None:
        """Let an item not be there any more; answers under way still find its name."""
        if trained := self.trained_row(item_id):
            self._removed[item_id] = trained
        else:
            del self._added[bisect_left(self._added, item_id)]
        del self._rows[item_id]
