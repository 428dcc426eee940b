"""Which validation metric chooses the epoch that is kept: the one of the ranking that is served.

A shop that recommends again what was bought ([serving] exclude_seen = false) is served the history
unmasked. Its runs log that ranking as well; a run that logs it is chosen by it. Needs no torch.
"""

from collections.abc import Iterable, Mapping

MASKS = {"masked": "history masked", "unmasked": "history not masked"}
METRICS = ("ndcg@10", "recall@10")


def logged_masks(exclude_seen: bool) -> tuple[str, ...]:
    """Return which rankings of the validation are logged."""
    return ("masked",) if exclude_seen else ("masked", "unmasked")


def column_of(mask: str, metric: str) -> str:
    """Return the name of a column of the log."""
    return f"validation.{mask}.{metric}"


def selecting_mask(columns: Iterable[str]) -> str | None:
    """Return the ranking that chooses, of a log with these columns; None: nothing was held out."""
    known = set(columns)
    for mask in ("unmasked", "masked"):
        if column_of(mask, METRICS[0]) in known:
            return mask
    return None


def selecting_value(line: Mapping[str, float]) -> float | None:
    """Return the NDCG@10 that an epoch is chosen by, from its line of the log."""
    mask = selecting_mask(line)
    return None if mask is None else line[column_of(mask, METRICS[0])]
