from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsr.training.dataset import DataError
from mmsr.training.prepare import blocks
from mmsr.training.prepare.blocks import Columns, Reader
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
        b'{"item_id": ["a"]}',
        b"[" * 100_000,
        b'{"item_id": "c"}',
    ]
    path.write_bytes(b"\n".join(lines))
    columns, rows, malformed = read(open_reader(path, COLUMNS))
    assert columns["item_id"] == ["a", "c"]
    assert rows == [1, 9]
    assert [row for row, _ in malformed] == [2, 4, 5, 6, 7, 8]
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
        ("log.tsv", "user_id\titem_id\n", "expected a file that ends in .parquet, .csv or .jsonl"),
    ],
)
def test_a_file_of_another_form_is_one_clear_error(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
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
