"""Which edition of Amazon Reviews two files are of, and whether they are what they should be."""

from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path

from mmsr.training.dataset import DataError
from mmsr.training.prepare.amazon_lines import (
    EXPECTED,
    Lines,
    is_literal,
    parse_record,
    shown,
)

FIRST_LINES = 100
REVIEWS, METADATA = "reviews", "item metadata"


class Edition(Enum):
    """When the data were gathered; each has fields of its own."""

    Y2014 = "2014"
    Y2018 = "2018"
    Y2023 = "2023"


OLD = frozenset({Edition.Y2014, Edition.Y2018})
# Fields that one edition alone has.
REVIEW_MARKS = {"helpful": Edition.Y2014, "verified": Edition.Y2018}
METADATA_MARKS = {
    "imUrl": Edition.Y2014,
    "salesRank": Edition.Y2014,
    "related": Edition.Y2014,
    "categories": Edition.Y2014,
    "category": Edition.Y2018,
    "main_cat": Edition.Y2018,
    "also_buy": Edition.Y2018,
    "imageURL": Edition.Y2018,
    "imageURLHighRes": Edition.Y2018,
}


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What the first lines of a file say."""

    holds: str
    editions: frozenset[Edition]


def parse_edition(text: str | None) -> Edition | None:
    """Return the edition of a year; `DataError` if there is none."""
    if text is None:
        return None
    try:
        return Edition(text)
    except ValueError:
        known = ", ".join(edition.value for edition in Edition)
        raise DataError(f"edition {text!r}; expected one of {known}") from None


def find_edition(reviews: Path, metadata: Path, forced: Edition | None) -> Edition:
    """Return the edition of the two files, `forced` if it is one that they can be read as.

    Raises `DataError` if a file is empty or something else, the two are swapped, or they
    do not fit together.
    """
    first, second = look(reviews), look(metadata)
    if (first.holds, second.holds) == (METADATA, REVIEWS):
        raise DataError(
            f"{reviews} holds item metadata and {metadata} reviews; "
            "name the reviews first, then the metadata"
        )
    for path, guess, expected in ((reviews, first, REVIEWS), (metadata, second, METADATA)):
        if guess.holds != expected:
            raise DataError(f"{path} holds {guess.holds}; expected {expected}")
    if forced is not None:
        return _checked(forced, {reviews: first, metadata: second})
    return _agreed({reviews: first, metadata: second})


def look(path: Path) -> Guess:
    """Read the first lines of a file; `DataError` if it is empty or of another kind."""
    if not path.is_file():
        raise DataError(f"{path} not found; {EXPECTED}")
    keys: set[str] = set()
    literal = False
    start = ""
    for _, line in islice(Lines(path), FIRST_LINES):
        start = start or shown(line)
        try:
            keys.update(map(str, parse_record(line)))
        except ValueError:
            continue
        literal = literal or is_literal(line)
    if not start:
        raise DataError(f"{path} has no lines; {EXPECTED}")
    guess = _guess(keys, literal)
    if guess is None:
        found = f"fields {', '.join(sorted(keys))}" if keys else repr(start)
        raise DataError(f"{path} holds neither reviews nor item metadata ({found}); {EXPECTED}")
    return guess


def _guess(keys: set[str], literal: bool) -> Guess | None:
    if {"user_id", "parent_asin", "timestamp"} <= keys:
        return Guess(holds=REVIEWS, editions=frozenset({Edition.Y2023}))
    if {"reviewerID", "asin"} <= keys:
        return Guess(holds=REVIEWS, editions=_marked(keys, REVIEW_MARKS))
    if "parent_asin" in keys:
        return Guess(holds=METADATA, editions=frozenset({Edition.Y2023}))
    if "asin" not in keys:
        return None
    if literal:
        return Guess(holds=METADATA, editions=frozenset({Edition.Y2014}))
    return Guess(holds=METADATA, editions=_marked(keys, METADATA_MARKS))


def _marked(keys: set[str], marks: dict[str, Edition]) -> frozenset[Edition]:
    found = frozenset(edition for key, edition in marks.items() if key in keys)
    return found if len(found) == 1 else OLD


def _checked(forced: Edition, guesses: dict[Path, Guess]) -> Edition:
    """Return `forced`; 2014 and 2018 may stand for each other, 2023 has other ids."""
    readable = OLD if forced in OLD else frozenset({forced})
    for path, guess in guesses.items():
        if not guess.editions & readable:
            raise DataError(
                f"{path} holds {guess.holds} of {_years(guess.editions)}, "
                f"which cannot be read as edition {forced.value}"
            )
    return forced


def _agreed(guesses: dict[Path, Guess]) -> Edition:
    said = ", ".join(f"{path} is of {_years(guess.editions)}" for path, guess in guesses.items())
    both = frozenset.intersection(*(guess.editions for guess in guesses.values()))
    if not both:
        alike = all(guess.editions <= OLD for guess in guesses.values())
        advice = ", or name one with --edition" if alike else ""
        raise DataError(f"{said}; take both files from one edition{advice}")
    if len(both) > 1:
        raise DataError(f"{said}; name the edition with --edition")
    [edition] = both
    return edition


def _years(editions: frozenset[Edition]) -> str:
    return " or ".join(sorted(edition.value for edition in editions))
