"""MovieLens as published, in small files: '::' lines of 1M, CSV of 20M, folder and zip."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.source_files import Outcome, read_lines
from typer.testing import CliRunner

from mmsr.training.dataset import DataError, open_dataset
from mmsr.training.prepare.cli import app
from mmsr.training.prepare.movielens import prepare_movielens
from mmsr.training.prepare.movielens_files import find_movielens
from mmsr.training.prepare.preparation import ImportSettings
from mmsr.training.prepare.progress import silent

MOVIES_1M = """1::Toy Story (1995)::Animation|Children's|Comedy
2::Misérables, Les (1995)::Drama
3::Mission: Impossible::Part :: II (2000)::Action
4::Never Rated (1990)::Comedy
4
""".encode("latin-1")
RATINGS_1M = b"""1::2::5::978300760
1::1::3::978302109
2::3::4::978301968
2::5::2::978300275
2::3::4
2::1::x::978300276
"""
MOVIES_20M = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation|Children|Comedy|Fantasy
11,"American President, The (1995)",Comedy|Drama|Romance
83773,Amélie (2001),(no genres listed)
"""
RATINGS_20M = """userId,movieId,rating,timestamp
1,1,3.5,1112486027
1,11,0.5,1112484676
2,83773,4.0,1112484819
"""
FILES_1M = {"movies.dat": MOVIES_1M, "ratings.dat": RATINGS_1M, "README": b"SUMMARY"}
FILES_20M = {
    "movies.csv": MOVIES_20M.encode(),
    "ratings.csv": RATINGS_20M.encode(),
    "links.csv": b"movieId,imdbId,tmdbId\n",
}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("ml")
        for name, content in files.items():
            archive.writestr(f"ml/{name}", content)
            archive.writestr(f"__MACOSX/ml/._{name}", b"\0")
    return path


def prepare(src: Path, images: Path | None = None, min_rating: float | None = None) -> Outcome:
    out = src.with_name(f"{src.name}-out")
    out.mkdir()
    settings = ImportSettings(
        name="ml", image_root=str(images or "."), origin="MovieLens", min_rating=min_rating
    )
    report = prepare_movielens(find_movielens(src), images, out, settings, silent)
    return Outcome(
        dataset=open_dataset(out),
        report=report,
        rejected=read_lines(out / "rejected.jsonl"),
        notes=read_lines(out / "notes.jsonl"),
    )


def test_1m_is_latin_1_and_a_title_may_hold_the_separator(tmp_path: Path) -> None:
    outcome = prepare(write_folder(tmp_path / "ml-1m", FILES_1M))
    table = outcome.dataset.item_table()
    assert table["item_id"].to_pylist() == ["1", "2", "3", "5"]
    assert table["title"].to_pylist() == [
        "Toy Story (1995)",
        "Misérables, Les (1995)",
        "Mission: Impossible::Part :: II (2000)",
        None,
    ]
    assert table["categories"].to_pylist() == [
        ["Animation", "Children's", "Comedy"],
        ["Drama"],
        ["Action"],
        [],
    ]
    assert outcome.sequences() == {"1": ["2", "1"], "2": ["5", "1", "3"]}
    assert outcome.dataset.times_T.tolist()[:2] == [978300760.0, 978302109.0]


def test_every_line_of_1m_is_accounted_for(tmp_path: Path) -> None:
    outcome = prepare(write_folder(tmp_path / "ml-1m", FILES_1M), min_rating=3)
    assert outcome.report.items.rejected == {"malformed row": 1, "item without an interaction": 1}
    assert outcome.report.interactions.rejected == {
        "malformed row": 1,
        "rating below 3": 1,
        "rating is no number": 1,
    }
    assert (outcome.report.interactions.rows, outcome.report.interactions.kept) == (6, 3)
    [line] = [line for line in outcome.rejected if line["file"] == "ratings.dat"]
    assert (line["row"], line["value"]) == (5, "3 fields, expected 4: 2::3::4")
    assert outcome.notes == []


def test_20m_is_csv_with_a_header(tmp_path: Path) -> None:
    outcome = prepare(write_folder(tmp_path / "ml-20m", FILES_20M))
    table = outcome.dataset.item_table()
    assert table["title"].to_pylist()[1:] == ["American President, The (1995)", "Amélie (2001)"]
    assert table["categories"].to_pylist()[2] == []
    assert outcome.sequences() == {"1": ["11", "1"], "2": ["83773"]}
    kept = prepare(write_folder(tmp_path / "again", FILES_20M), min_rating=3.5)
    assert kept.sequences() == {"1": ["1"], "2": ["83773"]}
    assert kept.report.interactions.rejected == {"rating below 3.5": 1}


@pytest.mark.parametrize("files", [FILES_1M, FILES_20M])
def test_the_archive_says_the_same_as_its_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = prepare(write_folder(tmp_path / "ml", files))
    archive = prepare(write_zip(tmp_path / "ml.zip", files))
    assert archive.dataset.info.content_hash == folder.dataset.info.content_hash
    assert archive.report == folder.report


def test_posters_are_found_by_movie(tmp_path: Path) -> None:
    posters = tmp_path / "posters"
    posters.mkdir()
    Image.new("RGB", (4, 4)).save(posters / "2.jpg")
    outcome = prepare(write_folder(tmp_path / "ml-1m", FILES_1M), images=posters)
    assert outcome.dataset.item_table()["image"].to_pylist() == [None, "2.jpg", None, None]
    assert outcome.report.prepared.items_with_image == 1


def test_the_command_prints_what_there_is(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "ml-1m.zip", FILES_1M)
    arguments = ["movielens", str(archive), str(tmp_path / "out"), "--k-core", "1"]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert printed.splitlines()[0] == "MovieLens"
    assert ["users", "2"] in [line.split() for line in printed.splitlines()]
    dataset = open_dataset(tmp_path / "out")
    assert dataset.info.name == "ml-1m"
    assert dataset.info.settings["k_core"] == 1


def broken_zip(folder: Path) -> Path:
    path = write_zip(folder / "ml.zip", FILES_20M)
    data = bytearray(path.read_bytes())
    place = data.index(b"ml/ratings.csv") + len(b"ml/ratings.csv")
    data[place : place + 20] = b"\xff" * 20
    path.write_bytes(bytes(data))
    return path


def text_file(folder: Path) -> Path:
    path = folder / "ratings.dat"
    path.write_bytes(RATINGS_1M)
    return path


def other_folder(folder: Path) -> Path:
    return write_folder(folder / "ml-100k", {"u.data": b"196\t242\t3\t881250949\n"})


def other_columns(folder: Path) -> Path:
    return write_folder(folder / "x", FILES_20M | {"ratings.csv": b"user,item\n1,2\n"})


def swapped(folder: Path) -> Path:
    files = {"movies.dat": RATINGS_1M, "ratings.dat": MOVIES_1M}
    return write_folder(folder / "x", files)


def other_movies(folder: Path) -> Path:
    return write_folder(folder / "x", FILES_1M | {"movies.dat": b"99::Other (1999)::Drama\n"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere", "not found; name the unpacked folder or the .zip"),
        (text_file, "is neither a folder nor a zip archive"),
        (other_folder, "holds u.data; expected ratings.dat and movies.dat"),
        (other_columns, "no column userId, movieId, rating, timestamp; found user, item"),
        (swapped, r"no interactions left; .* malformed row \(5\)"),
        (other_movies, "none of the 4 items with interactions"),
        (broken_zip, "ratings.csv is damaged .*download the archive again"),
    ],
)
def test_a_source_of_another_form_is_one_clear_error(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepare(make(tmp_path))
    assert "\n" not in str(error.value)
