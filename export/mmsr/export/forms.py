"""What an export decides by the size of a catalogue: rows of the tables, their form, the top K's.

In one place, so that whoever measures a catalogue of some size measures the graph that
`mmsr-export` would ship for it.
"""

from dataclasses import dataclass

from mmsr.engine.items import bound_rows
from mmsr.export.folding import Decision, decide
from mmsr.training.config import ModelConfig

SPARE_SHARE = 0.1  # of the items: rows for items added while serving
MIN_SPARE = 256
CHUNKED_FROM = 50_000  # rows of the table; measured, see `scoring_tail`


@dataclass(frozen=True, kw_only=True)
class ScoringForm:
    """How a bundle's sequence graph finds the best rows, and why."""

    chunked: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Forms:
    """What a bundle is made of, and why."""

    capacity: int  # rows of the tables
    rows: Decision  # of item_inputs
    scoring: ScoringForm

    def __str__(self) -> str:
        """Return it as half a line of text: "folded rows, flat top-K"."""
        rows = "folded" if self.rows.folded else "plain"
        return f"{rows} rows, {'chunked' if self.scoring.chunked else 'flat'} top-K"


def forms_of(config: ModelConfig, items: int) -> Forms:
    """Decide for a catalogue of so many items."""
    capacity = capacity_of(items)
    return Forms(capacity=capacity, rows=decide(config, capacity), scoring=decide_form(capacity))


def decide_form(capacity: int) -> ScoringForm:
    """Choose the form of the top K by the rows of the table."""
    chunked = capacity >= CHUNKED_FROM
    return ScoringForm(chunked=chunked, why=f"{capacity} rows, chunks pay from {CHUNKED_FROM} on")


def capacity_of(items: int) -> int:
    """Return the rows of the tables: padding, the items, and room for new ones."""
    return bound_rows(items + max(MIN_SPARE, int(items * SPARE_SHARE)))
