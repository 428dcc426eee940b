"""The filters of a model, asked and answering in numbers; see `placement`."""

from mmsr.engine.catalogue.placement import Placement
from mmsr.engine.categories import CategoryIndex
from mmsr.engine.filters import RowFilters
from mmsr.engine.rows import RowAnswer, RowRequest


class NamedFilters:
    """What may be asked of the filters in any thread."""

    def __init__(self, filters: RowFilters, placement: Placement) -> None:
        self._filters = filters
        self._placement = placement

    @property
    def categories(self) -> CategoryIndex:
        """The names of the categories; its bitmaps are the computing thread's."""
        return self._filters.categories

    def most_popular(self, request: RowRequest) -> RowAnswer:
        """Return the k most popular items that pass the filters, as `RowFilters` does."""
        with self._placement.lock:
            [placed] = self._placement.placed([request])
            [named] = self._placement.named([self._filters.most_popular(placed)])
        return named
