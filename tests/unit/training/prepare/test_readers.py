import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsr.training.dataset import DataError
from mmsr.training.prepare import blocks, csv_reader, parquet_reader
from mmsr.training.prepare.blocks import Columns, Reader
from mmsr.training.prepare.parquet_sizes import ELEMENT_BYTES, row_bytes
from mmsr.training.prepare.readers import open_reader

COLUMNS = Columns(required=("item_id",), optional=("title", "categories"))
LOG = Columns(required=("user_id", "item_id", "timestamp"))


def read(reader: Reader) -> tuple[dict[str, list[Any]], list[int], list[tuple[int, str]]]:
    """Return all columns, all rows' numbers and all malformed rows."""
    columns: dict[str, list[Any]] = {}
    rows: list[int] = []
    malformed: list[tuple[int, str]] = []
    done = [0.0]
    for block in reader.blocks():
        for name in block.columns:
            columns.setdefault(name, []).extend(block.values(name))
        rows.extend(block.row_R.tolist())
        malformed.extend(block.malformed)
        done.append(block.done)
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
    return columns, rows, malformed


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 2)
    monkeypatch.setattr("mmsr.training.prepare.parquet_reader.BLOCK_ROWS", 2)


def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    titles = ["Mug", None, 'A "big", red mug\nwith a lid', "Cup", "Tasse à thé"]
    table = pa.table({"item_id": list("abcde"), "title": titles, "price": range(5)})
    pq.write_table(table, tmp_path / "items.parquet")
    (tmp_path / "items.csv").write_text(
        "\ufeffitem_id,title,price\r\n"
        'a,Mug,0\r\nb,,1\r\n\r\nc,"A ""big"", red mug\nwith a lid",2\r\nd,Cup,3\r\ne,Tasse à thé,4',
        encoding="utf-8",
    )
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": "a", "title": "Mug", "price": 0}\n{"item_id": "b", "title": null}\n'
        '{"item_id": "c", "title": "A \\"big\\", red mug\\nwith a lid"}\n'
        '{"item_id": "d", "title": "Cup"}\n{"item_id": "e", "title": "Tasse \\u00e0 th\\u00e9"}'
    )
    for form in ("parquet", "csv", "jsonl"):
        reader = open_reader(tmp_path / f"items.{form}", COLUMNS)
        columns, rows, malformed = read(reader)
        assert columns["item_id"] == list("abcde"), form
        assert [title or None for title in columns["title"]] == titles, form
        assert columns["categories"] == [None] * 5, form
        assert (rows, malformed) == ([1, 2, 3, 4, 5], []), form
        assert reader.ignored == {"price"}, form


def test_csv_rows_of_the_wrong_width_are_malformed(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\na,Mug\nb\nc,Cup,3\nd,Pot\n")
    columns, rows, malformed = read(open_reader(path, COLUMNS))
    assert columns["item_id"] == ["a", "d"]
    assert rows == [1, 4]
    assert malformed == [
        (2, "1 fields, the header has 2: b"),
        (3, "3 fields, the header has 2: c,Cup,3"),
    ]


def test_broken_json_lines_are_malformed(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    lines = [
        b'{"item_id": "a"}',
        b'{"item_id": "b"',
        b"",
        b'["item_id"]',
        b'{"item_id": "\xff"}',
        b'{"item_id": "\\ud800"}',
        b'{"item_id": "\xed\xa0\x80"}',
        '{"item_id": "utf-16"}'.encode("utf-16-le"),
        b'{"item_id": ["a"]}',
        b"[" * 100_000,
        b'{"item_id": "c"}',
    ]
    path.write_bytes(b"\n".join(lines))
    columns, rows, malformed = read(open_reader(path, COLUMNS))
    assert columns["item_id"] == ["a", "c"]
    assert rows == [1, 11]
    assert [row for row, _ in malformed] == [2, 4, 5, 6, 7, 8, 9, 10]
    assert malformed[1][1] == 'not a JSON object: ["item_id"]'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "log.csv",
            "user_id,item,timestamp\n",
            "no column item_id; found user_id, item, timestamp",
        ),
        ("log.csv", "user_id;item_id;timestamp\n", "found user_id;item_id;timestamp; expected"),
        ("log.csv", "user_id,item_id,timestamp,item_id\n", "item_id stands twice"),
        ("log.csv", "", "is empty; expected a header and rows"),
        ("log.csv", "user_id,item_id,timestamp\nu,i,1\nu,é,2\n", "line 3: not UTF-8"),
        ("log.csv", 'user_id,item_id,timestamp\nu,"i,1\n', "line 2: not well-formed CSV"),
        ("log.csv", 'user_id,item_id,timestamp\nu,"i,1\n' + "x" * 200_000, "not well-formed CSV"),
        ("log.jsonl", '{"user": "u", "item_id": "i"}\n', "no column user_id, timestamp"),
        ("log.parquet", "PAR1 and then nothing", "not a readable Parquet file"),
        ("log.csv", ",".join(f"c{n}" for n in range(999)) + "\n", "c19, and 979 more; expected"),
        ("log.csv", "x" * 500 + ',"a\nb\x1b"\n', f"found {'x' * 40}…, a\N{REPLACEMENT CHARACTER}b"),
        ("log.csv", "user_id,item_id,timestamp\n" + "x" * 500, "has a line of more than 400 bytes"),
        (
            "log.csv",
            "user_id,item_id,timestamp\n" + ',"\n"' * 200,
            "line 102: a record of more than 400 bytes; look for a stray quote",
        ),
        ("log.jsonl", "{" * 500, "has a line of more than 400 bytes"),
        ("log.tsv", "user_id\titem_id\n", "expected a file that ends in .parquet, .csv or .jsonl"),
    ],
)
def test_a_file_of_another_form_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str, message: str
) -> None:
    if "more than 400" in message:
        monkeypatch.setattr(blocks, "MAX_LINE_BYTES", 400)
        monkeypatch.setattr(csv_reader, "MAX_LINE_BYTES", 400)
    path = tmp_path / name
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as error:
        read(open_reader(path, LOG))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.csv not found"):
        open_reader(tmp_path / "log.csv", LOG)


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]}), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"log\.parquet is not a readable Parquet file"):
        read(open_reader(path, LOG))


def test_a_damaged_parquet_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    users = [f"u{n}" for n in range(1000)]
    pq.write_table(pa.table({"user_id": users, "item_id": users, "timestamp": range(1000)}), path)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"log\.parquet is not a readable Parquet file"):
        read(open_reader(path, LOG))


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [b"u"], "column user_id has type binary; expected texts or whole numbers"),
        ("timestamp", [True], "column timestamp has type bool; expected numbers, dates"),
        ("timestamp", [[1]], "column timestamp has type list"),
    ],
)
def test_a_parquet_column_of_an_unusable_type_is_named(
    tmp_path: Path, column: str, values: list[Any], message: str
) -> None:
    path = tmp_path / "log.parquet"
    good: dict[str, list[Any]] = {"user_id": ["u"], "item_id": ["i"], "timestamp": [1]}
    pq.write_table(pa.table(good | {column: values}), path)
    with pytest.raises(DataError, match=message):
        read(open_reader(path, LOG))


def test_a_parquet_text_that_is_not_utf8_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    raw = pa.array([b"caf\xe9"], pa.binary())
    text = pa.StringArray.from_buffers(1, *raw.buffers()[1:])
    pq.write_table(pa.table({"item_id": text}), path)
    with pytest.raises(DataError, match=r"items\.parquet is not a readable .*[Ii]nvalid UTF-?8"):
        read(open_reader(path, COLUMNS))


def test_a_parquet_column_name_that_is_not_utf8_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"item_id", b"item_\xff\xff"))
    with pytest.raises(DataError, match=r"items\.parquet is not a readable Parquet file"):
        read(open_reader(path, COLUMNS))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_block_ends_early_where_its_text_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    for module in (blocks, parquet_reader):
        monkeypatch.setattr(module, "BLOCK_ROWS", 100)
        monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    titles = ["x" * 400] * 6 + ["y"] * 30
    table = pa.table({"item_id": [f"i{n}" for n in range(36)], "title": titles})
    path = tmp_path / f"items.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "csv":
        rows = [f"{row['item_id']},{row['title']}" for row in table.to_pylist()]
        path.write_text("\n".join(["item_id,title", *rows]))
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    found = list(open_reader(path, COLUMNS).blocks())
    sizes = [len(block.row_R) for block in found]
    assert sizes[:2] == [3, 3]
    assert sum(sizes) == 36
    assert max(sum(map(len, block.values("title"))) for block in found) <= 1400
    assert [row for block in found for row in block.row_R.tolist()] == list(range(1, 37))
    assert [title for block in found for title in block.values("title")] == titles


def test_a_parquet_text_that_many_rows_share_is_counted_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "items.parquet"
    titles = pa.array(["x" * 1000] * 50).dictionary_encode()
    pq.write_table(pa.table({"item_id": [f"i{n}" for n in range(50)], "title": titles}), path)
    assert len(read(open_reader(path, COLUMNS))[1]) == 50
    monkeypatch.setattr(parquet_reader, "MAX_LINE_BYTES", 999)
    with pytest.raises(DataError, match=r"row 1: 100\d bytes of text; expected at most 999"):
        read(open_reader(path, COLUMNS))
    monkeypatch.undo()
    monkeypatch.setattr(parquet_reader, "MOST_TEXT_BYTES", 20_000)
    monkeypatch.setattr(parquet_reader, "MOST_TEXT_RATIO", 1)
    with pytest.raises(DataError, match="its rows hold more than 20000 bytes of text in all"):
        read(open_reader(path, COLUMNS))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a", "bc"], None, [], [None, "d"]]),
        pa.array([["a", "bc"], None, [], [None, "d"]], pa.large_list(pa.string())),
        pa.array(["abc", None, "", "d"]),
        pa.array(["abc", None, "", "d"]).dictionary_encode(),
        pa.array(["abc", None, "", "d"], pa.string_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_the_text_of_a_row_is_counted_whatever_holds_it(column: Any) -> None:
    counted = row_bytes(pa.record_batch([column, pa.array([1, 2, 3, 4])], ["a", "n"])).tolist()
    values = 2 * ELEMENT_BYTES if "list" in str(column.type) else 0
    assert counted == [3 + values, 0, 0, 1 + values]
    cut = pa.record_batch([column], ["a"]).slice(1, 3)
    assert row_bytes(cut).tolist() == counted[1:]
