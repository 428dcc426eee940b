"""What messages do to records, one after the other, against a dict."""

from hypothesis import given
from hypothesis import strategies as st

from mmsr.engine.catalogue.changes import Deletion, Job, Switching, Upsert, resolve, rows_needed
from mmsr.engine.catalogue.drafts import Draft
from mmsr.engine.catalogue.records import Content, Record

NOW_S = 5.0


def draft(item_id: str, popularity: int | None = None, *, available: bool = True) -> Draft:
    return Draft(item_id, Content(title=item_id), b"", {}, available, popularity)


def upsert(*drafts: Draft) -> Upsert:
    return Upsert(drafts, [{} for _ in drafts])


ids = st.sampled_from("abc")
jobs = st.one_of(
    st.builds(
        lambda i, p, a: upsert(draft(i, p, available=a)), ids, st.none() | st.just(7), st.booleans()
    ),
    st.builds(lambda some: Deletion(some), st.lists(ids, min_size=1, max_size=3)),
    st.builds(
        lambda some, on: Switching(some, on), st.lists(ids, min_size=1, max_size=3), st.booleans()
    ),
)


@given(st.lists(jobs, max_size=12), st.sets(ids))
def test_a_group_of_messages_comes_to_what_they_come_to_one_by_one(
    group: list[Job], there: set[str]
) -> None:
    together = resolve(group, {}, there.__contains__, 1, NOW_S)
    records: dict[str, Record] = {}
    shown = set(there)
    for job, outcome in zip(group, together.outcomes, strict=True):
        alone = resolve([job], records, shown.__contains__, 1, NOW_S)
        assert alone.outcomes == [outcome]
        for item_id, write in alone.writes.items():
            records[item_id] = write.record
            (shown.discard if write.record.deleted else shown.add)(item_id)
    assert {i: write.record for i, write in together.writes.items()} == records
    for item_id, write in together.writes.items():  # features go with the content that they are of
        written = any(isinstance(job, Upsert) and item_id in job.item_ids for job in group)
        assert write.features is not None or (not written and write.record.content is None)


def test_a_popularity_that_is_not_said_stays_and_a_deletion_forgets_it() -> None:
    before = {"a": Record("a", 1, Content(), popularity=9)}

    def popularity(*group: Job) -> int | None:
        return resolve(group, before, {"a"}.__contains__, 2, NOW_S).writes["a"].record.popularity

    assert popularity(upsert(draft("a"))) == 9
    assert popularity(upsert(draft("a", 0))) == 0
    assert popularity(Deletion(["a"]), upsert(draft("a"))) is None


def test_availability_says_nothing_of_when_the_content_was_written() -> None:
    before = {"a": Record("a", 1, Content(title="x"), written_s=1.0)}
    [write] = resolve(
        [Switching(["a"], False)], before, {"a"}.__contains__, 2, NOW_S
    ).writes.values()
    assert write.record == before["a"]._replace(version=2, available=False)
    assert write.features is None


def test_upserts_alone_take_rows() -> None:
    assert rows_needed(upsert(draft("a"), draft("b"))) == 2
    assert rows_needed(Deletion(["a"])) == rows_needed(Switching(["a"], True)) == 0
