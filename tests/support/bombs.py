"""Small files that hold more than any memory once they are read to their end."""

import gzip
import random
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.odd_tables import LOG
from support.source_files import write_lines

MIB = 1 << 20
ENDLESS_MIB = 3000  # of one line


def _with_log(folder: Path) -> list[str]:
    write_lines(folder / "interactions.jsonl", list(LOG))
    return ["table", str(folder)]


def _write_items(folder: Path, **columns: object) -> list[str]:
    table = pa.table(columns)
    path = folder / "items.parquet"
    pq.write_table(table, path, compression="zstd", store_schema=False, write_statistics=False)
    return _with_log(folder)


def one_text_for_all(folder: Path, _: random.Random) -> list[str]:
    """Write a Parquet file whose rows share one long text: 150 kB that stand for 250 GB."""
    rows = 60_000
    titles = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["x" * (4 * MIB)]))
    return _write_items(folder, item_id=[f"i{n}" for n in range(rows)], title=titles)


def one_endless_text(folder: Path, _: random.Random) -> list[str]:
    """Write a Parquet file with one text of 64 MiB."""
    return _write_items(folder, item_id=["i1"], title=["x" * (64 * MIB)])


def endless_list(folder: Path, _: random.Random) -> list[str]:
    """Write a Parquet file with 20 million categories in its one row: 500 bytes."""
    values = 20_000_000
    names = pa.DictionaryArray.from_arrays(np.zeros(values, np.int8), pa.array(["a"]))
    lists = pa.ListArray.from_arrays(pa.array([0, values], pa.int32()), names)
    return _write_items(folder, item_id=["i1"], categories=lists)


def endless_json(folder: Path, _: random.Random) -> list[str]:
    """Write JSON lines without a line end; the disk holds none of it."""
    with (folder / "items.jsonl").open("wb") as file:
        file.truncate(ENDLESS_MIB * MIB)
    return _with_log(folder)


def endless_gzip(folder: Path, _: random.Random) -> list[str]:
    """Write reviews of which all is one line: gzip may have many members."""
    reviews, meta = folder / "reviews_X_5.json.gz", folder / "meta_X.json.gz"
    reviews.write_bytes(gzip.compress(b"x" * MIB) * ENDLESS_MIB)
    meta.write_bytes(gzip.compress(b"{'asin': 'a'}\n"))
    return ["amazon", str(reviews), str(meta), "--edition", "2014"]


def _zipped(folder: Path, name: str, piece: bytes, count: int) -> list[str]:
    with zipfile.ZipFile(folder / "ml.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("movies.csv" if name == "ratings.csv" else "movies.dat", b"movieId,title")
        with archive.open(name, "w") as file:
            for _ in range(count):
                file.write(piece)
    return ["movielens", str(folder / "ml.zip")]


def endless_line_in_a_zip(folder: Path, _: random.Random) -> list[str]:
    """Write ratings of which all is one line, packed a thousandfold."""
    return _zipped(folder, "ratings.dat", bytes(MIB), 300)


def endless_record_in_a_zip(folder: Path, _: random.Random) -> list[str]:
    """Write ratings in CSV whose one record goes over millions of short lines."""
    return _zipped(folder, "ratings.csv", b',"\n"' * (MIB // 4), 300)


BOMBS = (
    one_text_for_all,
    one_endless_text,
    endless_list,
    endless_json,
    endless_gzip,
    endless_line_in_a_zip,
    endless_record_in_a_zip,
)
