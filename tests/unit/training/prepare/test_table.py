import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.source_files import Prepare, items_of, log_of, prepare_folder, write_lines

from mmsr.training.dataset import DataError
from mmsr.training.prepare.table import TableSettings

GOOD_LOG = log_of(("u", "a", 3), ("v", "b", 1), ("u", "b", 1), ("u", "c", 2))


def test_users_come_as_the_file_names_them_and_items_by_time(prepare: Prepare) -> None:
    outcome = prepare(items_of("c", "a", "b"), GOOD_LOG)
    assert outcome.sequences() == {"u": ["b", "c", "a"], "v": ["b"]}
    assert outcome.dataset.items_T.tolist() == [3, 1, 2, 3]  # row 1 is the first item: c
    assert outcome.dataset.times_T.tolist() == [1.0, 2.0, 3.0, 1.0]
    assert outcome.dataset.user_ids() == ["u", "v"]
    assert outcome.rejected == outcome.notes == []


def test_equal_times_keep_the_order_of_the_file(prepare: Prepare) -> None:
    names = [f"i{n}" for n in range(50)]
    log = log_of(*(("u", name, 7) for name in reversed(names)))
    assert prepare(items_of(*names), log).sequences() == {"u": names[::-1]}


def test_milliseconds_are_no_seconds(prepare: Prepare) -> None:
    log = log_of(("u", "a", 1_700_000_000), ("u", "b", 1_700_000_000_000), ("u", "c", "2023-11-15"))
    outcome = prepare(items_of("a", "b", "c"), log)
    (line,) = outcome.rejected
    assert (line["row"], line["value"]) == (2, "1700000000000")
    assert line["reason"] == "timestamp after the year 9999: are these milliseconds?"
    assert outcome.sequences() == {"u": ["a", "c"]}


def test_every_rejected_row_is_listed_with_its_reason(prepare: Prepare) -> None:
    items = [
        {"item_id": "a", "title": "first"},
        {"item_id": None, "title": "x"},
        {"item_id": ""},
        {"item_id": "a", "title": "second"},
        {"item_id": "é" * 257},
        '{"item_id": "b"',
        {"item_id": 5},
    ]
    log = [
        *log_of(("u", "a", 1), ("", "a", 1), (None, "a", 1), ("u", "zzz", 1), ("u" * 513, "a", 1)),
        *log_of(("u", "", 1), ("u", "a", None), ("u", "a", math.nan), ("u", "a", math.inf)),
        *log_of(("u", "a", "soon"), ("u", "a", -1), ("u", "a", 1.0), ("u", 5, "2024-01-02")),
        "not json",
        {"user_id": "u"},
    ]
    outcome = prepare(items, log)
    found = [(line["file"], line["row"], line["reason"]) for line in outcome.rejected]
    no_time = "timestamp is no finite number or ISO date"
    assert sorted(found) == sorted(
        [
            ("items.jsonl", 2, "no item id"),
            ("items.jsonl", 3, "no item id"),
            ("items.jsonl", 4, "duplicate item id"),
            ("items.jsonl", 5, "item id longer than 512 bytes"),
            ("items.jsonl", 6, "malformed row"),
            ("interactions.jsonl", 2, "no user id"),
            ("interactions.jsonl", 3, "no user id"),
            ("interactions.jsonl", 4, "item not in the items file"),
            ("interactions.jsonl", 5, "user id longer than 512 bytes"),
            ("interactions.jsonl", 6, "no item id"),
            ("interactions.jsonl", 7, "no timestamp"),
            ("interactions.jsonl", 8, no_time),
            ("interactions.jsonl", 9, no_time),
            ("interactions.jsonl", 10, no_time),
            ("interactions.jsonl", 11, "negative timestamp"),
            ("interactions.jsonl", 12, "same user, item and timestamp as an earlier row"),
            ("interactions.jsonl", 14, "malformed row"),
            ("interactions.jsonl", 15, "no item id"),
        ]
    )
    values = {line["row"]: line["value"] for line in outcome.rejected if "inter" in line["file"]}
    assert values[4] == "zzz"
    assert values[5] == "u" * 200 + "… (513 characters)"
    assert (values[8], values[9], values[10], values[11]) == ("nan", "inf", "soon", "-1")
    assert values[12] == "u, a, 1"
    assert outcome.dataset.item_table()["title"].to_pylist() == ["first", None]
    assert outcome.sequences() == {"u": ["a", "5"]}
    assert outcome.report.interactions.rejected[no_time] == 3


def test_items_stay_without_text_picture_or_buyer_and_are_counted(prepare: Prepare) -> None:
    items = [
        {"item_id": "a", "title": " ", "description": "", "brand": None},
        {"item_id": "b", "brand": "Acme", "categories": ["Cups", "Mugs"], "image": None},
        {"item_id": "c", "description": "d", "categories": "Cups", "image": "no.png"},
        {"item_id": "d", "title": ["x"], "categories": [["x"]], "image": ""},
    ]
    outcome = prepare(items, GOOD_LOG[:2])
    prepared = outcome.report.prepared
    assert (prepared.items, prepared.items_with_text, prepared.items_with_image) == (4, 2, 0)
    assert (prepared.items_with_categories, prepared.categories) == (2, 2)
    assert prepared.items_never_bought == 2
    assert prepared.users_below_3_interactions == 2
    assert outcome.report.items.notes == {
        "categories are no list of texts": 1,
        "image file not found": 1,
        "title is no text": 1,
    }
    assert {(line["row"], line["value"]) for line in outcome.notes} == {
        (3, "no.png"),
        (4, "['x']"),
        (4, "[['x']]"),
    }
    assert outcome.dataset.info.categories == ["Cups", "Mugs"]
    assert outcome.dataset.item_table()["categories"].to_pylist() == [
        [],
        ["Cups", "Mugs"],
        ["Cups"],
        [],
    ]


def test_pictures_are_found_below_the_image_root(
    prepare: Prepare, picture: Callable[[str], Path]
) -> None:
    absolute = picture("images/b.png")
    picture("images/a.png")
    items = [
        {"item_id": "a", "image": "images/a.png"},
        {"item_id": "b", "image": str(absolute)},
        {"item_id": "c", "image": "../secret.png"},
    ]
    outcome = prepare(items, GOOD_LOG)
    images = outcome.dataset.item_table()["image"].to_pylist()
    assert images == ["images/a.png", "images/b.png", None]
    assert (outcome.dataset.image_root / images[1]).samefile(absolute)
    assert outcome.report.items.notes == {"image path leaves the image root": 1}


def test_the_core_takes_users_and_items_out_until_all_have_k(prepare: Prepare) -> None:
    pairs = [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "b"), ("w", "c"), ("x", "c")]
    log = log_of(*((user, item, time) for time, (user, item) in enumerate(pairs)))
    outcome = prepare(items_of("d", "c", "b", "a"), log, k_core=2)
    assert outcome.sequences() == {"u": ["a", "b"], "v": ["a", "b"]}
    assert outcome.dataset.items_T.tolist() == [2, 1, 2, 1]  # b is row 1 now
    assert outcome.report.items.rejected == {"item below the k-core": 2}
    rejected = {(line["row"], line["reason"], line["value"]) for line in outcome.rejected}
    assert rejected == {
        (7, "user below the k-core", "x"),
        (6, "item below the k-core", "c"),
        (5, "user below the k-core", "w"),
        (1, "item below the k-core", "d"),
        (2, "item below the k-core", "c"),
    }
    assert outcome.report.prepared.users_without_kept_interactions == 2


def test_a_core_of_zero_is_refused() -> None:
    with pytest.raises(DataError, match="k-core of 0; expected at least 1"):
        TableSettings(name="x", image_root=".", k_core=0)


@pytest.mark.parametrize(
    ("items", "log", "k_core", "message"),
    [
        (
            [{"item_id": ""}],
            GOOD_LOG,
            None,
            r"no items left; .* 1 rows, rejected: no item id \(1\);",
        ),
        ([], GOOD_LOG, None, "no items left; items.jsonl: 0 rows, rejected: none"),
        (items_of("a"), [], None, "no interactions left; .*interactions.jsonl: 0 rows"),
        (items_of("x"), GOOD_LOG, None, r"rejected: item not in the items file \(4\)$"),
        (items_of("a", "b", "c"), GOOD_LOG, 4, r"user below the k-core \(4\)"),
    ],
)
def test_an_empty_result_is_an_error_that_counts_the_reasons(
    prepare: Prepare, items: list[Any], log: list[Any], k_core: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        prepare(items, log, k_core)


def test_the_content_hash_follows_the_content(prepare: Prepare) -> None:
    def content_hash(items: list[Any], log: list[Any]) -> str:
        return prepare(items, log).dataset.info.content_hash

    items = items_of("a", "b", "c")
    base = content_hash(items, GOOD_LOG)
    assert base == content_hash(items, GOOD_LOG)
    assert base == content_hash([*items, {"item_id": ""}], GOOD_LOG)  # rejected: no content
    changed = [
        content_hash([*items, *items_of("d")], GOOD_LOG),
        content_hash([items[0] | {"brand": "B"}, *items[1:]], GOOD_LOG),
        content_hash(items, GOOD_LOG[:-1]),
        content_hash(items, [GOOD_LOG[0] | {"user_id": "w"}, *GOOD_LOG[1:]]),
        content_hash(items, [GOOD_LOG[0] | {"timestamp": 4}, *GOOD_LOG[1:]]),
    ]
    assert len({base, *changed}) == 6


def test_the_form_of_the_files_does_not_matter(tmp_path: Path) -> None:
    items = [{"item_id": n, "title": f"Mug {n}", "categories": ["A", "B"]} for n in range(1, 4)]
    log = [{"user_id": n % 2, "item_id": n, "timestamp": 10 * n} for n in (1, 2, 3, 2)]
    for form in ("parquet", "csv", "jsonl"):
        (tmp_path / form).mkdir()
        for stem, rows in (("items", items), ("interactions", log)):
            write_form(tmp_path / form / f"{stem}.{form}", rows)
    outcomes = []
    for form in ("parquet", "csv", "jsonl"):
        (tmp_path / f"out-{form}").mkdir()
        outcomes.append(prepare_folder(tmp_path / form, tmp_path / f"out-{form}"))
    assert outcomes[0].sequences() == {"1": ["1", "3"], "0": ["2"]}
    assert len({outcome.dataset.info.content_hash for outcome in outcomes}) == 1
    assert [sum(o.report.interactions.rejected.values()) for o in outcomes] == [1, 1, 1]


def write_form(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        write_lines(path, rows)
    else:
        texts = [["|".join(v) if isinstance(v, list) else str(v) for v in r.values()] for r in rows]
        path.write_text("\n".join(",".join(line) for line in [list(rows[0]), *texts]) + "\n")


ids = st.sampled_from(["a", "b", "c", "d", "", "e" * 600, 7, None])
times = st.sampled_from([0, 1, 2, 3, -1, "", "2024-01-02", "soon", math.nan, math.inf, None])
broken = st.sampled_from(["{", "[]", "null", '"text"'])
item_rows = st.lists(st.builds(lambda i: {"item_id": i}, ids) | broken, min_size=3, max_size=12)
log_rows = st.lists(st.tuples(ids, ids, times).map(lambda r: log_of(r)[0]) | broken, max_size=40)


@settings(max_examples=20, deadline=None)
@given(item_rows, log_rows, st.sampled_from([None, 2]))
def test_rows_in_are_rows_kept_and_rows_rejected(
    items: list[Any], log: list[Any], k_core: int | None
) -> None:
    items = [*items_of("a", "b"), *items]
    log = [*log, *(row for user in "pq" for row in log_of((user, "a", 9), (user, "b", 9)))]
    with TemporaryDirectory() as name:
        source, out = Path(name) / "source", Path(name) / "out"
        source.mkdir()
        out.mkdir()
        write_lines(source / "items.jsonl", items)
        write_lines(source / "interactions.jsonl", log)
        outcome = prepare_folder(source, out, k_core)
        report = json.loads((out / "report.json").read_text())
    listed = Counter((line["file"], line["reason"]) for line in outcome.rejected)
    for part, rows, kept in (
        ("items", items, outcome.dataset.info.items),
        ("interactions", log, outcome.dataset.info.interactions),
    ):
        file = report[part]
        assert (file["rows"], file["kept"]) == (len(rows), kept)
        assert file["rows"] == file["kept"] + sum(file["rejected"].values())
        assert file["rejected"] == {
            reason: count for (name, reason), count in listed.items() if name == file["file"]
        }
    places = [(line["file"], line["row"]) for line in outcome.rejected]
    assert len(places) == len(set(places))  # one reason a row
