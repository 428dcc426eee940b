"""What messages do to the records of items, one after the other. Pure.

An upsert replaces all that is known of an item; what it does not say of popularity stays. A
deletion holds until the item is written again, whatever later bundles hold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmsr.engine.catalogue.drafts import Draft
from mmsr.engine.catalogue.features import Features
from mmsr.engine.catalogue.records import Record, Write


class Upsert(NamedTuple):
    """Items to add or replace, with their features for every bundle in use."""

    drafts: Sequence[Draft]
    features: Sequence[Features]

    @property
    def item_ids(self) -> Sequence[str]:
        """The ids of the items."""
        return [draft.item_id for draft in self.drafts]


class Deletion(NamedTuple):
    """Items to remove."""

    item_ids: Sequence[str]


class Switching(NamedTuple):
    """Items of which is said whether they can be bought."""

    item_ids: Sequence[str]
    available: bool


Job = Upsert | Deletion | Switching


class Done(NamedTuple):
    """What became of one message."""

    version: int = 0  # of the catalogue, from which on it is seen
    added: Sequence[str] = ()
    replaced: Sequence[str] = ()
    unknown: Sequence[str] = ()
    encode_us: int = 0


class Resolved(NamedTuple):
    """What a group of messages comes to."""

    outcomes: list[Done]  # one a message
    writes: dict[str, Write]  # by item: the last word, with the features that go with it


def rows_needed(job: Job) -> int:
    """Return how many free rows a message takes."""
    return len(job.drafts) if isinstance(job, Upsert) else 0


def resolve(
    jobs: Sequence[Job],
    before: Mapping[str, Record],
    is_there: Callable[[str], bool],
    version: int,
    now_s: float,
) -> Resolved:
    """Return the records after the messages, as of `version`.

    `before`: the records that are kept of the items; `is_there`: whether one is shown now.
    """
    resolver = _Resolver(before, is_there, version, now_s)
    return Resolved([resolver.outcome(job) for job in jobs], resolver.writes)


class _Resolver:
    """The state after each message."""

    def __init__(
        self,
        before: Mapping[str, Record],
        is_there: Callable[[str], bool],
        version: int,
        now_s: float,
    ) -> None:
        self._before = before
        self._was_there = is_there
        self._version = version
        self._now_s = now_s
        self.writes: dict[str, Write] = {}

    def outcome(self, job: Job) -> Done:
        """Take one message in."""
        there = [item_id for item_id in job.item_ids if self._is_there(item_id)]
        known = frozenset(there)
        others = [item_id for item_id in dict.fromkeys(job.item_ids) if item_id not in known]
        match job:
            case Upsert():
                for draft, features in zip(job.drafts, job.features, strict=True):
                    self._upsert(draft, features)
                return Done(self._version, added=others, replaced=there)
            case Deletion():
                for item_id in there:
                    gone = Record(item_id, self._version, available=False, deleted=True)
                    self.writes[item_id] = Write(gone, {})
            case Switching():
                for item_id in there:
                    self._switch(item_id, job.available)
        return Done(self._version, unknown=others)

    def _is_there(self, item_id: str) -> bool:
        if item_id in self.writes:
            return not self.writes[item_id].record.deleted
        return self._was_there(item_id)

    def _record(self, item_id: str) -> Record | None:
        if item_id in self.writes:
            return self.writes[item_id].record
        return self._before.get(item_id)

    def _upsert(self, draft: Draft, features: Features) -> None:
        popularity = draft.popularity
        former = self._record(draft.item_id)
        if popularity is None and former is not None and not former.deleted:
            popularity = former.popularity
        record = Record(
            draft.item_id,
            self._version,
            draft.content,
            draft.available,
            popularity,
            written_s=self._now_s,
        )
        self.writes[draft.item_id] = Write(record, features, draft.file)

    def _switch(self, item_id: str, available: bool) -> None:
        record = self._record(item_id) or Record(item_id, self._version)
        record = record._replace(version=self._version, available=available)
        write = self.writes.get(item_id, Write(record))
        self.writes[item_id] = write._replace(record=record)
