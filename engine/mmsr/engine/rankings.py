"""How alike two rankings are: the share that both hold, and rank-biased overlap."""

from collections.abc import Sequence

# Weight of the next place, given the one before: the first ten places carry 86 % of the weight
# (Webber, Moffat, Zobel, "A similarity measure for indefinite rankings", 2010, section 4).
PERSISTENCE = 0.9


def overlap(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the share of the longer list that stands in both; 1.0 for two empty ones."""
    longer = max(len(a), len(b))
    return len(set(a) & set(b)) / longer if longer else 1.0


def rank_biased_overlap(
    a: Sequence[str], b: Sequence[str], persistence: float = PERSISTENCE
) -> float:
    """Return the extrapolated rank-biased overlap of two rankings without repeats, 0 to 1.

    Webber, Moffat, Zobel 2010, eq. 32, which allows for lists of different lengths. Its time grows
    with the length of the lists, no faster.
    """
    short, long = sorted((a, b), key=len)
    s, l = len(short), len(long)  # noqa: E741  the names of the paper
    if s == 0:
        return 1.0 if l == 0 else 0.0
    p = persistence
    common = _common(short, long)  # X_d
    x_s, x_l = common[s - 1], common[l - 1]
    total = sum(x / d * p**d for d, x in enumerate(common, 1))
    total += sum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    found = (1 - p) / p * total + ((x_l - x_s) / l + x_s / s) * p**l
    return min(1.0, max(0.0, float(found)))  # sums are rounded


def _common(short: Sequence[str], long: Sequence[str]) -> list[int]:
    """Return how many items the first d places of both share, for d from 1 on."""
    seen: set[str] = set()  # in one of them so far
    count, counts = 0, []
    for place, item in enumerate(long):
        for found in (item, short[place]) if place < len(short) else (item,):
            if found in seen:
                count += 1
            else:
                seen.add(found)
        counts.append(count)
    return counts
