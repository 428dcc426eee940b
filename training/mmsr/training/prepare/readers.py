"""Reads Parquet, CSV and JSON lines in blocks of rows. Knows columns, not what they mean.

A line that is no row (broken JSON, the wrong number of fields) is handed on as malformed, so that
it can be counted; a file that cannot be read to its end is a `DataError` that names it.
Rows count from 1: records after the header (CSV), lines (JSON lines), rows (Parquet).
"""

from pathlib import Path

from mmsr.training.dataset import DataError
from mmsr.training.prepare.blocks import Columns, Reader
from mmsr.training.prepare.csv_reader import CsvReader
from mmsr.training.prepare.json_reader import JsonLinesReader
from mmsr.training.prepare.parquet_reader import ParquetReader


def open_reader(path: Path, columns: Columns) -> Reader:
    """Return the reader for the file's extension; the file is opened by `blocks`."""
    if not path.is_file():
        raise DataError(f"{path} not found; expected a Parquet, CSV or JSON lines file")
    if path.suffix == ".parquet":
        return ParquetReader(path, columns)
    if path.suffix == ".csv":
        return CsvReader(path, columns)
    if path.suffix == ".jsonl":
        return JsonLinesReader(path, columns)
    raise DataError(f"{path}: expected a file that ends in .parquet, .csv or .jsonl")
