"""One model's tables while the catalogue changes: which rows are free, and how a change is shown.

No row that a request can see is ever overwritten: an item that changes moves to a free row, in one
step with its eligibility, between two batches. Then nothing speaks of its old row, which is free.
"""

# N items of the bundle, C rows of the tables

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from mmsr.bundle.manifest import Manifest
from mmsr.engine.catalogue.encoders import encoders_of
from mmsr.engine.catalogue.features import Features, Reader, by_modality
from mmsr.engine.catalogue.index import LiveIndex
from mmsr.engine.catalogue.order import IdOrder
from mmsr.engine.catalogue.placement import NOWHERE
from mmsr.engine.catalogue.projector import ItemContent, ProjectedRows, Projector
from mmsr.engine.catalogue.records import Record
from mmsr.engine.errors import CatalogueFull
from mmsr.engine.model import SequenceModel
from mmsr.engine.rows import ItemRow


class Change(NamedTuple):
    """One record to be shown."""

    record: Record
    features: Features | None  # None: its row stays as it is


class _Put(NamedTuple):
    record: Record
    number: int
    row: int
    categories: tuple[str, ...]
    popularity: int
    modalities: tuple[str, ...]


class Plan(NamedTuple):
    """What a group of changes does to one model; its rows are taken."""

    version: int  # of the catalogue, once it is shown
    puts: Sequence[_Put]
    rows: ProjectedRows | None
    switches: Sequence[tuple[int, bool]]  # number, whether it is available from now on
    removals: Sequence[tuple[str, int]]  # id, number


class LiveRows:
    """The changing part of one model.

    `plan` is called by one thread at a time, `name` on the event loop, `apply` by the thread that
    computes (any, before the model serves), `show` on the event loop, in this order for each group
    of changes.
    """

    def __init__(self, model: SequenceModel) -> None:
        bundle = model.bundle
        sizes = bundle.manifest.tables
        self.model = model
        self.index = LiveIndex(bundle.catalogue, sizes.capacity)
        self.order = IdOrder(bundle.catalogue.item_ids)
        projector = Projector(bundle)
        self.reader = Reader(encoders_of(bundle.folder, bundle.manifest), projector)
        self.contained_until_s = data_time_s(bundle.manifest)
        self.modalities: dict[
            str, tuple[str, ...]
        ] = {}  # of each item whose row is not the bundle's
        self._free = deque(range(sizes.items + 1, sizes.capacity))
        self._fresh = set(self._free)  # rows that never held an item
        self._spare = len(self._free)
        self.left = False  # it is shown nothing more, and may be closed

    @property
    def spare_rows(self) -> int:
        """How many items can still be added."""
        return len(self._free)

    def contains(self, record: Record) -> bool:
        """Tell whether the bundle was made with this content of the item, or a later one."""
        trained = self.index.trained_row(record.item_id)
        return bool(trained) and record.written_s <= self.contained_until_s

    def popularity(self, record: Record) -> int:
        """Return what was said of it, else what the bundle knows."""
        if record.popularity is not None:
            return record.popularity
        trained = self.index.trained_row(record.item_id)
        return int(self.model.bundle.catalogue.popularity[trained - 1]) if trained else 0

    def require(self, rows: int) -> None:
        """Raise `CatalogueFull` unless so many rows are free."""
        if rows > len(self._free):
            raise CatalogueFull(
                f"{rows} rows are needed, {len(self._free)} of the {self._spare} spare ones of "
                f"bundle {self.model.version} are free; delete items, or export the model again: "
                "a new bundle has rows for what it was trained with, and spare ones beside"
            )

    def plan(self, changes: Sequence[Change], version: int) -> Plan:
        """Say what the changes do, each of another item; takes free rows and computes theirs."""
        puts: list[_Put] = []
        items: list[ItemContent] = []
        switches, removals = [], []
        self.require(sum(change.features is not None for change in changes))
        next_number = self.index.next_number
        for record, features in changes:
            number = self.index.number_of(record.item_id)
            if features is not None:
                item = self._content(record, features)
                row = self._free.popleft()
                if number is None and row in self._fresh:
                    number = row
                elif number is None:
                    number, next_number = next_number, next_number + 1
                puts.append(self._put(record, number, row, item))
                items.append(item)
            elif number is not None and record.deleted:
                removals.append((record.item_id, number))
            elif number is not None:
                switches.append((number, record.available))
        rows = self.reader.projector.project(items) if items else None
        return Plan(version, puts, rows, switches, removals)

    def give_back(self, plan: Plan) -> None:
        """Free the rows of a plan that will not be applied."""
        self._free.extendleft(put.row for put in reversed(plan.puts))

    def name(self, plan: Plan) -> None:
        """Let answers find the names of what `apply` brings: they may meet it before `show`."""
        for put in plan.puts:
            self.index.name(put.record.item_id, put.number)

    def apply(self, plan: Plan) -> list[int]:
        """Change tables, places and eligibility in one step between two batches.

        Returns the rows that no item has any more.
        """
        model, left = self.model, []
        with model.placement.lock:  # which closing takes too
            if self.left:
                return []
            for line, put in enumerate(plan.puts):
                assert plan.rows is not None
                if put.record.item_id in self.index:
                    left.append(model.placement.row(put.number))
                self._write(put, plan.rows, line)
                model.placement.place(put.number, put.row)
            for _, number in plan.removals:
                left.append(model.placement.row(number))
                model.placement.remove(number)
            for row in left:
                model.remove_item(row)
            for number, available in plan.switches:
                model.set_available(model.placement.row(number), available)
        return [row for row in left if row != NOWHERE]

    def _write(self, put: _Put, rows: ProjectedRows, line: int) -> None:
        """Fill a free row, and let it come back."""
        bundle, inputs_W, outputs_D = self.model.bundle, rows.inputs_nW[line], rows.outputs_nD[line]
        # What explains and what compares read these.
        bundle.item_inputs_CW[put.row], bundle.item_outputs_CD[put.row] = inputs_W, outputs_D
        if bundle.content_CD is not None:
            bundle.content_CD[put.row] = rows.content_nD[line]
        available, popularity = put.record.available, float(put.popularity)
        item = ItemRow(inputs_W, outputs_D, put.categories, available, popularity)
        self.model.write_item(put.row, item)

    def show(self, plan: Plan, left: Sequence[int]) -> None:
        """Let new requests know of what was applied."""
        for put in plan.puts:
            item_id = put.record.item_id
            if item_id not in self.index:
                self.index.add(item_id, put.number)
            self.modalities[item_id] = put.modalities
            self._fresh.discard(put.row)
        for item_id, _ in plan.removals:
            self.index.remove(item_id)
            self.modalities.pop(item_id, None)
        self._free.extend(left)
        self.index.version = plan.version

    def _content(self, record: Record, features: Features) -> ItemContent:
        content = record.content
        assert content is not None
        return ItemContent(
            self.index.trained_row(record.item_id),
            self.reader.projector.categories(content),
            by_modality(content, self.reader, features),
        )

    def _put(self, record: Record, number: int, row: int, item: ItemContent) -> _Put:
        known = self.reader.projector.known(item)
        return _Put(record, number, row, item.categories, self.popularity(record), known)


def data_time_s(manifest: Manifest) -> float:
    """Return until when the bundle's data go, in seconds since 1970: their newest interaction.

    What was written later may not be in it. Data whose times are no such seconds, or are not
    said, contain nothing for sure: -inf.
    """
    newest = manifest.provenance.get("newest")
    exported = manifest.provenance.get("exported")
    if not isinstance(newest, int | float) or not isinstance(exported, str):
        return float("-inf")
    try:
        exported_s = datetime.fromisoformat(exported).timestamp()
    except ValueError:
        return float("-inf")
    return float(newest) if newest <= exported_s else float("-inf")
