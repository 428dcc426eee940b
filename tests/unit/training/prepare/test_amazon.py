"""The three editions as published, in small files with the quirks of the real ones."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.source_files import Outcome, read_lines
from typer.testing import CliRunner

from mmsr.training.dataset import DataError, open_dataset
from mmsr.training.prepare.amazon import AmazonFiles, prepare_amazon
from mmsr.training.prepare.amazon_editions import Edition, find_edition, parse_edition
from mmsr.training.prepare.amazon_lines import parse_record
from mmsr.training.prepare.blocks import note_ignored
from mmsr.training.prepare.cli import app
from mmsr.training.prepare.preparation import ImportSettings
from mmsr.training.prepare.progress import silent

Lines = list[Any]

# As repr() of Python 2 wrote them: an apostrophe makes double quotes, fields come in any order.
META_2014 = [
    "{'asin': '7806397051', 'description': 'WAWO 15 Color', 'title': 'Camouflage &amp; Palette', "
    "'price': 5.04, 'imUrl': 'http://ecx.images-amazon.com/images/I/41HYn%2BqA3iL._SX342_.jpg', "
    "'related': {'also_bought': ['B004XK7S2G']}, 'salesRank': {'Beauty': 69}, "
    "'categories': [['Beauty', 'Makeup', 'Face'], ['Beauty', 'Gifts &amp; Sets']], "
    "'brand': 'COKA'}",
    "{'asin': 'B0009P4PZC', 'title': \"Dr. Scholl's Caf\\xe9 \\u2019n\\u2019 Oil\", "
    "'price': '$5.65', 'categories': [['Beauty']]}",
    "{'asin': 'B0009P4PZC', 'title': 'the same item again', 'categories': [['Beauty']]}",
    "{'asin': 'B00UNKNOWN', 'title': 'nobody reviewed this'}",
    "{'asin': 'B000CUT', 'title': 'cut of",
    "__import__('os').getcwd()",
    "{'title': 'no id'}",
]
REVIEWS_2014: Lines = [
    {
        "reviewerID": user,
        "asin": asin,
        "reviewerName": "J. Doe",
        "helpful": [0, 0],
        "reviewText": "Très bien \U0001f600 &quot;great&quot;",
        "overall": stars,
        "summary": "Five Stars",
        "unixReviewTime": time,
        "reviewTime": "01 30, 2014",
    }
    for user, asin, stars, time in [
        ("A1YJEY40YUW4SE", "7806397051", 1.0, 1391040000),
        ("A1YJEY40YUW4SE", "B0009P4PZC", 5.0, 1390940000),
        ("A60XNB876KYML", "B0009P4PZC", 3.0, 1397779200),
        ("A60XNB876KYML", "B0NOMETA01", 5.0, 1397779300),
    ]
]
META_2018: Lines = [
    {
        "category": ["All Beauty", "Hair Care &amp; Styling"],
        "tech1": "",
        "description": ["Loud 'N Clear", "", "turns up the volume"],
        "title": "Loud 'N Clear&trade;",
        "also_buy": [],
        "brand": "Idea  Village\n",
        "feature": [],
        "main_cat": "All Beauty",
        "price": "$9.99",
        "asin": "6546546450",
        "imageURL": ["https://m.example/I/31.jpg._SS40_.jpg"],
        "imageURLHighRes": ["https://m.example/I/31-big.jpg", "https://m.example/I/32-big.jpg"],
    },
    {
        "category": [],
        "title": "var aPageStart = (new Date()).getTime();",
        "description": [],
        "asin": "7178680776",
        "imageURL": [],
        "imageURLHighRes": [],
    },
]
REVIEWS_2018: Lines = [
    {
        "overall": 5.0,
        "verified": True,
        "reviewTime": "09 1, 2016",
        "reviewerID": "A3CIUOJXQ5VDQ2",
        "asin": asin,
        "style": {"Size:": " 1"},
        "image": ["https://m.example/review.jpg"],
        "unixReviewTime": 1472688000,
    }
    for asin in ("6546546450", "7178680776", "7178680776")
]
META_2023: Lines = [
    {
        "main_category": "All Beauty",
        "title": "Howard Polish &#39;n&#39; Wax",
        "average_rating": 4.8,
        "features": ["Cleans", "Shines"],
        "description": [],
        "price": None,
        "images": [
            {"thumb": "https://m.example/t2.jpg", "large": "https://m.example/l2.jpg",
             "variant": "PT01", "hi_res": None},
            {"thumb": "https://m.example/t1.jpg", "large": "https://m.example/l1.jpg",
             "variant": "MAIN", "hi_res": "https://m.example/h1.jpg"},
        ],
        "videos": [],
        "store": "Howard Products",
        "categories": ["Beauty", "Wax"],
        "parent_asin": "B01CUPMQZE",
    },
    {"title": "Yes To Tomatoes", "images": None, "store": None, "categories": [],
     "features": [], "description": ["Gel"], "parent_asin": "B076WQZGPM"},
]  # fmt: skip
REVIEWS_2023: Lines = [
    {
        "rating": 5.0,
        "title": "Such a lovely scent",
        "text": "<br />ok",
        "images": [],
        "asin": "B00YQ6X8EO",
        "parent_asin": item,
        "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
        "timestamp": time,
        "verified_purchase": True,
    }
    for item, time in [("B01CUPMQZE", 1588687728923), ("B076WQZGPM", 1588615855070)]
]
EDITIONS = {
    Edition.Y2014: (REVIEWS_2014, META_2014),
    Edition.Y2018: (REVIEWS_2018, META_2018),
    Edition.Y2023: (REVIEWS_2023, META_2023),
}


def write_gzip(path: Path, lines: Lines) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes(gzip.compress("".join(f"{text}\n" for text in texts).encode()))
    return path


def write_edition(folder: Path, edition: Edition) -> tuple[Path, Path]:
    reviews, metadata = EDITIONS[edition]
    return (
        write_gzip(folder / f"reviews_{edition.value}_5.json.gz", reviews),
        write_gzip(folder / f"meta_{edition.value}.json.gz", metadata),
    )


def prepare(reviews: Path, metadata: Path, images: Path | None = None, **settings: Any) -> Outcome:
    """Prepare two files beside which nothing else has been written."""
    out = reviews.parent / "out"
    out.mkdir()
    edition = find_edition(reviews, metadata, None)
    k_core = settings.pop("k_core", None)
    report = prepare_amazon(
        AmazonFiles(reviews=reviews, metadata=metadata, edition=edition, images=images),
        out,
        ImportSettings(
            name="test",
            image_root=str(images or "."),
            origin=edition.value,
            k_core=None if k_core is None else int(k_core),
            **settings,
        ),
        silent,
    )
    return Outcome(
        dataset=open_dataset(out),
        report=report,
        rejected=read_lines(out / "rejected.jsonl"),
        notes=read_lines(out / "notes.jsonl"),
    )


def items(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {row.pop("item_id"): row for row in outcome.dataset.item_table().to_pylist()}


def test_2014_metadata_are_python_literals(tmp_path: Path) -> None:
    outcome = prepare(*write_edition(tmp_path, Edition.Y2014))
    assert items(outcome) == {
        "7806397051": {
            "title": "Camouflage & Palette",
            "description": "WAWO 15 Color",
            "brand": "COKA",
            "categories": ["Beauty", "Makeup", "Face", "Gifts & Sets"],
            "image": None,
        },
        "B0009P4PZC": {
            "title": "Dr. Scholl's Café \u2019n\u2019 Oil",
            "description": None,
            "brand": None,
            "categories": ["Beauty"],
            "image": None,
        },
        "B0NOMETA01": {
            "title": None,
            "description": None,
            "brand": None,
            "categories": [],
            "image": None,
        },
    }
    assert outcome.sequences() == {
        "A1YJEY40YUW4SE": ["B0009P4PZC", "7806397051"],
        "A60XNB876KYML": ["B0009P4PZC", "B0NOMETA01"],
    }
    assert outcome.dataset.times_T.tolist()[0] == 1390940000.0


def test_every_line_of_the_metadata_is_accounted_for(tmp_path: Path) -> None:
    outcome = prepare(*write_edition(tmp_path, Edition.Y2014))
    report = outcome.report.items
    assert report.rejected == {
        "malformed row": 2,
        "duplicate item id": 1,
        "item without an interaction": 1,
        "no item id": 1,
    }
    assert report.notes == {"no line in the items file: kept without content": 1}
    assert (report.rows, report.kept) == (len(META_2014) + 1, 3)
    assert {(line["row"], line["value"]) for line in outcome.notes} == {(8, "B0NOMETA01")}
    malformed = [line for line in outcome.rejected if line["reason"] == "malformed row"]
    assert [line["row"] for line in malformed] == [5, 6]
    assert malformed[0]["value"].startswith("neither JSON nor a Python literal: {'asin'")
    assert "salesRank" in report.ignored_columns
    assert "reviewText" in outcome.report.interactions.ignored_columns


def test_2018_lists_become_texts_and_page_code_is_no_title(tmp_path: Path) -> None:
    outcome = prepare(*write_edition(tmp_path, Edition.Y2018))
    found = items(outcome)
    assert found["6546546450"] == {
        "title": "Loud 'N Clear™",
        "description": "Loud 'N Clear  turns up the volume",
        "brand": "Idea Village",
        "categories": ["All Beauty", "Hair Care & Styling"],
        "image": None,
    }
    assert found["7178680776"]["title"] is None
    assert outcome.report.items.notes == {"title is a piece of page code": 1}
    assert outcome.report.interactions.rejected == {
        "same user, item and timestamp as an earlier row": 1
    }


def test_2023_joins_by_the_parent_and_counts_seconds(tmp_path: Path) -> None:
    outcome = prepare(*write_edition(tmp_path, Edition.Y2023))
    found = items(outcome)
    assert found["B01CUPMQZE"] == {
        "title": "Howard Polish 'n' Wax",
        "description": "Cleans Shines",
        "brand": "Howard Products",
        "categories": ["Beauty", "Wax"],
        "image": None,
    }
    assert found["B076WQZGPM"]["description"] == "Gel"
    assert outcome.sequences() == {"AGKHLEW2SOWHNMFQIJGBECAF7INQ": ["B076WQZGPM", "B01CUPMQZE"]}
    assert outcome.dataset.times_T.tolist() == [1588615855.07, 1588687728.923]


@pytest.mark.parametrize("edition", list(Edition))
def test_the_edition_is_seen_in_the_files_and_said(tmp_path: Path, edition: Edition) -> None:
    reviews, metadata = write_edition(tmp_path, edition)
    arguments = ["amazon", str(reviews), str(metadata), str(tmp_path / "out"), "--k-core", "1"]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert f"Amazon Reviews {edition.value}" in printed
    info = open_dataset(tmp_path / "out").info
    assert info.name == f"reviews_{edition.value}_5"
    assert (info.settings["origin"], info.settings["k_core"]) == (
        f"Amazon Reviews {edition.value}",
        1,
    )


def test_an_unpacked_file_is_read_too(tmp_path: Path) -> None:
    reviews, metadata = write_edition(tmp_path, Edition.Y2023)
    for path in (reviews, metadata):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    outcome = prepare(reviews.with_suffix(""), metadata.with_suffix(""))
    assert outcome.report.prepared.interactions == 2


def test_pictures_are_found_by_item_and_by_the_end_of_the_link(tmp_path: Path) -> None:
    reviews, metadata = write_edition(tmp_path, Edition.Y2014)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("41HYn+qA3iL._SX342_.jpg", "B0NOMETA01.JPEG"):
        Image.new("RGB", (4, 4)).save(folder / name, format="JPEG")
    (folder / "B0009P4PZC.png").write_text("<html>")
    outcome = prepare(reviews, metadata, folder)
    assert {item: row["image"] for item, row in items(outcome).items()} == {
        "7806397051": "41HYn+qA3iL._SX342_.jpg",
        "B0009P4PZC": None,
        "B0NOMETA01": "B0NOMETA01.JPEG",
    }
    assert outcome.report.items.notes["image file unreadable"] == 1


def test_low_ratings_and_the_core_leave(tmp_path: Path) -> None:
    reviews, metadata = write_edition(tmp_path, Edition.Y2014)
    outcome = prepare(reviews, metadata, min_rating=3, k_core=1)
    assert outcome.report.interactions.rejected == {"rating below 3": 1}
    assert set(items(outcome)) == {"B0009P4PZC", "B0NOMETA01"}
    assert outcome.report.items.rejected["item without an interaction"] == 2
    assert not [line for line in outcome.rejected if line["file"] == reviews.name]


def test_bad_reviews_are_counted_by_reason(tmp_path: Path) -> None:
    good = REVIEWS_2014[0]
    bad = [
        good | {"reviewerID": ""},
        good | {"asin": None},
        good | {"unixReviewTime": "soon"},
        good | {"unixReviewTime": [1]},
        good | {"reviewerID": "\ud800"},
        '{"reviewerID": "A1',
        "[]",
        "",
    ]
    _, metadata = write_edition(tmp_path, Edition.Y2014)
    reviews = write_gzip(tmp_path / "bad_5.json.gz", [good, *bad])
    outcome = prepare(reviews, metadata)
    assert outcome.report.interactions.rejected == {
        "malformed row": 4,
        "no user id": 1,
        "no item id": 1,
        "timestamp is no finite number or ISO date": 1,
    }
    assert outcome.report.interactions.rows == 8
    assert outcome.report.interactions.kept == 1


def test_half_a_surrogate_pair_in_a_text_is_replaced(tmp_path: Path) -> None:
    lines: Lines = [
        META_2023[0] | {"title": "\ud83d\ude00 and \ud83d"},
        "{'parent_asin': 'B076WQZGPM', 'title': u'\\ud83d\\ude00'}",
    ]
    reviews, _ = write_edition(tmp_path, Edition.Y2023)
    outcome = prepare(reviews, write_gzip(tmp_path / "meta.jsonl.gz", lines))
    titles = [row["title"] for row in items(outcome).values()]
    assert titles == ["\U0001f600 and \ufffd", "\U0001f600"]


def swapped(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    return metadata, reviews


def twice(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    return reviews, reviews


def mixed(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    return reviews, write_edition(metadata.parent, Edition.Y2023)[1]


def missing(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    return reviews, metadata.with_name("nowhere.gz")


def with_content(content: bytes) -> Callable[[Path, Path], tuple[Path, Path]]:
    def write(reviews: Path, metadata: Path) -> tuple[Path, Path]:
        reviews.write_bytes(content)
        return reviews, metadata

    return write


def cut_off(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    metadata.write_bytes(metadata.read_bytes()[:-30])
    return reviews, metadata


def elsewhere(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    return reviews, write_gzip(metadata, [META_2014[3]])


def unmarked(reviews: Path, metadata: Path) -> tuple[Path, Path]:
    bare = {"reviewerID": "u", "asin": "B1", "unixReviewTime": 1}
    return write_gzip(reviews, [bare]), write_gzip(metadata, [{"asin": "B1"}])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (swapped, "holds item metadata and .* reviews; name the reviews first"),
        (twice, "holds reviews; expected item metadata"),
        (mixed, "is of 2014, .* is of 2023; take both files from one edition$"),
        (missing, "nowhere.gz not found; expected an Amazon Reviews file"),
        (with_content(b""), "is not gzip"),
        (with_content(b"<!DOCTYPE html>"), "is not gzip .*<!DOCTYPE html>.*download it again"),
        (with_content(gzip.compress(b"\n\n")), "has no lines"),
        (with_content(gzip.compress(b"a,b,5.0,1\n")), "neither reviews nor .*'a,b,5.0,1'"),
        (with_content(gzip.compress(b'{"a": 1}\n')), r"neither reviews .*\(fields a\)"),
        (with_content(gzip.compress(b"x" * (17 << 20))), "a line of more than"),
        (cut_off, "is damaged or cut off"),
        (elsewhere, r"none of the 3 items with interactions \(such as '7806397051'\)"),
        (unmarked, "2014 or 2018, .*; name the edition with --edition"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_one_clear_error(
    tmp_path: Path, spoil: Callable[[Path, Path], tuple[Path, Path]], message: str
) -> None:
    paths = spoil(*write_edition(tmp_path, Edition.Y2014))
    with pytest.raises(DataError, match=message) as error:
        prepare(*paths)
    assert "\n" not in str(error.value)


def test_reviews_that_are_all_bad_are_an_error_with_the_reasons(tmp_path: Path) -> None:
    _, metadata = write_edition(tmp_path, Edition.Y2014)
    reviews = write_gzip(tmp_path / "r.json.gz", [REVIEWS_2014[0] | {"unixReviewTime": None}])
    with pytest.raises(DataError, match=r"no interactions left; .* no timestamp \(1\)"):
        prepare(reviews, metadata)


def test_an_edition_can_be_forced_where_its_ids_fit(tmp_path: Path) -> None:
    bare = unmarked(*write_edition(tmp_path, Edition.Y2014))
    assert find_edition(*bare, Edition.Y2018) is Edition.Y2018
    with pytest.raises(DataError, match="holds reviews of 2014 or 2018, which cannot be read as"):
        find_edition(*bare, Edition.Y2023)
    assert parse_edition("2014") is Edition.Y2014
    with pytest.raises(DataError, match="edition '2015'; expected one of 2014, 2018, 2023"):
        parse_edition("2015")


def test_the_texts_of_reviews_do_not_stay_in_memory(tmp_path: Path) -> None:
    text = "x" * 100_000
    lines = [REVIEWS_2014[0] | {"unixReviewTime": n, "reviewText": text} for n in range(300)]
    reviews = write_gzip(tmp_path / "long_5.json.gz", lines)
    _, metadata = write_edition(tmp_path, Edition.Y2014)
    del lines
    tracemalloc.start()
    outcome = prepare(reviews, metadata)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome.report.prepared.interactions == 300
    assert peak_bytes < 100 * len(text)  # a third of the texts


@pytest.mark.parametrize("line", ["{[1]}", "{'a': {[]}}", "{" + "'a': 1, " * 200_000 + "}"])
def test_a_literal_that_is_none_is_malformed(line: str) -> None:
    with pytest.raises(ValueError, match=r"neither JSON nor|Expecting|property name"):
        parse_record(line.encode())


def test_names_of_fields_that_nobody_reads_are_kept_as_a_report_can_hold_them() -> None:
    ignored: set[str] = set()
    note_ignored(ignored, ["\ud800a", "x" * 5000, 3, *(f"name {n}" for n in range(5000))])
    assert {"\N{REPLACEMENT CHARACTER}a", "x" * 200, "3"} <= ignored
    assert len(ignored) == 1000
