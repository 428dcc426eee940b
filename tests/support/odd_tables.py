"""Files of a shop's data as nobody should write them: every form, of odd types, damaged. Seeded."""

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.damaged_bytes import damaged

Rows = list[dict[str, Any]]
Odd = Callable[[random.Random, int], Any]  # an Arrow array of so many values

ITEMS: Rows = [
    {
        "item_id": f"i{n}",
        "title": f"Thing {n} à thé",
        "description": None if n % 3 else 'of clay,\n"red"',
        "brand": "Acme",
        "categories": ["cups", "lamps"][: n % 3],
        "image": "picture.png" if n % 2 else None,
    }
    for n in range(12)
]
LOG: Rows = [
    {"user_id": f"u{n % 5}", "item_id": f"i{n % 12}", "timestamp": 1_600_000_000 + n}
    for n in range(40)
]
META = [
    {"asin": f"i{n}", "title": "T &amp; t", "imUrl": "a/b.jpg", "categories": [["a", "b"]]}
    for n in range(12)
]
REVIEWS = [
    {"reviewerID": f"u{n % 5}", "asin": f"i{n % 12}", "unixReviewTime": n, "helpful": [0, 0]}
    for n in range(40)
]
# What is put into texts at random places.
PIECES = (
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf", b"\r", b"\n", b'"', b","),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 400, b"9" * 5000, b"0x10", b"1_0", b"true"),
    *(b"{}", b"[" * 3000, b'{"a":' * 3000, b"null", b"::", b"|", b"../../x", b"'" * 3),
    *(b"9999-12-31T23:59:59+00:00", b"0001-01-01T00:00:00+23:59", b"x" * 2000, b"\x1b[31m"),
)
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "cp500", "utf-8-sig")
ENCODED_SHARE = 0.05
WHOLE = 2**63 - 1


def _numbers(kind: Any, values: list[Any]) -> Odd:
    return lambda choose, n: pa.array([choose.choice(values) for _ in range(n)], kind)


ODD: tuple[Odd, ...] = (
    _numbers(pa.float64(), [float("nan"), float("inf"), -1.0, 1e308, 0.5, None]),
    _numbers(pa.float32(), [float("nan"), 3.0]),
    _numbers(pa.int8(), [-1, 1]),
    _numbers(pa.uint64(), [2**64 - 1, 0]),
    _numbers(pa.int64(), [WHOLE, -WHOLE, None]),
    _numbers(pa.bool_(), [True, None]),
    _numbers(pa.binary(), [b"\xff", b"u1"]),
    _numbers(pa.string(), ["", "\0", "u1", "1", "x" * 5000, "NaN", "1e999", None]),
    _numbers(pa.large_string(), ["i1", "i2", "2020-01-01"]),
    _numbers(pa.string_view(), ["i1", "i2", "10000000000000000000000000000"]),
    _numbers(pa.null(), [None]),
    _numbers(pa.list_(pa.string()), [["a"], [], None, [None]]),
    _numbers(pa.list_(pa.list_(pa.string())), [[["a"]], [None]]),
    _numbers(pa.list_(pa.string(), 2), [["a", "b"]]),
    _numbers(pa.list_(pa.int64()), [[1], None]),
    _numbers(pa.struct([("a", pa.string())]), [{"a": "b"}, None]),
    _numbers(pa.map_(pa.string(), pa.int64()), [[("a", 1)]]),
    _numbers(pa.timestamp("ns"), [-WHOLE, WHOLE, None]),
    _numbers(pa.timestamp("s", "Europe/Berlin"), [0, 2**40]),
    _numbers(pa.date32(), [-(2**31), 2**31 - 1, 0]),
    _numbers(pa.date64(), [0, 86_400_000]),
    _numbers(pa.time64("us"), [0]),
    _numbers(pa.duration("s"), [1]),
    _numbers(pa.decimal128(38, 2), [Decimal("9" * 36), Decimal("-0.01"), None]),
    _numbers(pa.decimal256(60, 0), [Decimal("9" * 60)]),
    lambda choose, n: pa.array(
        [choose.choice(["i1", "i2", None]) for _ in range(n)]
    ).dictionary_encode(),
    lambda choose, n: pa.array([choose.choice([1, 2**40]) for _ in range(n)]).dictionary_encode(),
)


def parquet_of(rows: Rows, choose: random.Random) -> bytes:
    """Return rows as Parquet, most often with columns of odd types, twice, or not there."""
    table = pa.Table.from_pylist(rows)
    for _ in range(choose.choice((0, 1, 1, 2))):
        place = choose.randrange(table.num_columns)
        name = table.schema.names[place]
        if table.schema.names.count(name) > 1:
            continue
        kind = choose.randrange(8)
        if kind == 0:
            table = table.append_column(name, table.column(place))
        elif kind == 1 and table.num_columns > 1:
            table = table.remove_column(place)
        else:
            table = table.set_column(place, name, choose.choice(ODD)(choose, len(table)))
    file = io.BytesIO()
    options = {
        "compression": choose.choice(["none", "snappy", "gzip", "zstd"]),
        "use_dictionary": choose.random() < 0.5,
        "store_schema": choose.random() < 0.7,
        "row_group_size": choose.choice([3, 1000]),
    }
    pq.write_table(table, file, **options)
    content = file.getvalue()
    return damaged(content, choose) if choose.random() < 0.5 else content


def csv_of(rows: Rows, choose: random.Random) -> bytes:
    """Return rows as damaged CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    for row in rows:
        names = row.get("categories")
        writer.writerow(row | ({} if names is None else {"categories": "|".join(names)}))
    return in_text(file.getvalue(), choose)


def lines_of(rows: Rows, choose: random.Random) -> bytes:
    """Return rows as damaged JSON lines; some values are of another type."""
    lines = []
    for row in rows:
        odd = dict(row)
        if choose.random() < 0.1:
            odd[choose.choice(list(row))] = choose.choice(
                [float("nan"), 10**400, [["a"]], {"a": []}, True, "\ud800", -1e308, "", None, [1]]
            )
        lines.append(json.dumps(odd))
    return in_text("\n".join(lines) + "\n", choose)


def in_text(text: str, choose: random.Random) -> bytes:
    """Return a text damaged at random places, now and then in another encoding."""
    if choose.random() < ENCODED_SHARE:
        return text.encode(choose.choice(ENCODINGS), "replace")
    return damaged(text.encode(), choose, PIECES)


def compressed(content: bytes, choose: random.Random) -> bytes:
    """Return gzip: whole, cut off, damaged, twice, or with something behind it."""
    packed = gzip.compress(content)
    return choose.choice(
        [
            *(packed, packed, packed),
            packed[: choose.randrange(len(packed))],
            damaged(packed, choose),
            gzip.compress(packed),
            packed + choose.randbytes(20),
            content,
        ]
    )


def write_table(folder: Path, choose: random.Random) -> list[str]:
    """Write a shop's two files; return the arguments of `prepare` but for the last."""
    forms = {"parquet": parquet_of, "csv": csv_of, "jsonl": lines_of}
    for name, rows in (("items", ITEMS), ("interactions", LOG)):
        form = choose.choice(list(forms))
        (folder / f"{name}.{form}").write_bytes(forms[form](rows, choose))
    return ["table", str(folder)]


def write_amazon(folder: Path, choose: random.Random) -> list[str]:
    """Write reviews and metadata of 2014."""
    reviews, meta = folder / "reviews_X_5.json.gz", folder / "meta_X.json.gz"
    reviews.write_bytes(compressed(lines_of(REVIEWS, choose), choose))
    told = "\n".join(map(repr, META)) + "\n"
    meta.write_bytes(compressed(in_text(told, choose), choose))
    return ["amazon", str(reviews), str(meta), "--edition", "2014"]


def write_movielens(folder: Path, choose: random.Random) -> list[str]:
    """Write MovieLens, packed or not, in its old or its new form."""
    if choose.random() < 0.5:
        movies = [{"movieId": n, "title": f"M {n} (1990)", "genres": "A|B"} for n in range(1, 13)]
        ratings = [
            {"userId": n % 5, "movieId": n % 12 + 1, "rating": 4, "timestamp": n} for n in range(40)
        ]
        files = {"movies.csv": csv_of(movies, choose), "ratings.csv": csv_of(ratings, choose)}
    else:
        movies_text = "".join(f"{n}::Misérables {n}::A|B\n" for n in range(1, 13))
        ratings_text = "".join(f"{n % 5}::{n % 12 + 1}::4::{n}\n" for n in range(40))
        files = {
            "movies.dat": in_text(movies_text, choose),
            "ratings.dat": in_text(ratings_text, choose),
        }
    if choose.random() < 0.5:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return ["movielens", str(folder)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", choose.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])) as z:
        for name, content in files.items():
            z.writestr(choose.choice([name, f"ml/{name}", f"../../{name}"]), content)
    path = folder / "ml.zip"
    whole = packed.getvalue()
    path.write_bytes(damaged(whole, choose) if choose.random() < 0.4 else whole)
    return ["movielens", str(path)]


WRITERS = (write_table, write_table, write_amazon, write_movielens)
