"""Overlap and rank-biased overlap, by their definitions and by hand."""

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsr.engine.rankings import overlap, rank_biased_overlap

RANKINGS = st.lists(st.sampled_from(string.ascii_lowercase), unique=True, max_size=26)
PERSISTENCES = st.sampled_from((0.1, 0.5, 0.9, 0.98))


def test_overlap_counts_the_longer_list() -> None:
    assert overlap("abcd", "dcxy") == 0.5
    assert overlap("ab", "abcd") == 0.5
    assert overlap("", "") == 1.0


def brute(a: str, b: str, p: float) -> float:
    """Return equal-length RBO_ext from its definition: agreement goes on as at the last depth."""
    k = len(a)
    agreement = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, k + 1)]
    forever = agreement + [agreement[-1]] * 2000
    return (1 - p) * sum(x * p**d for d, x in enumerate(forever))


def test_rank_biased_overlap_is_its_definition() -> None:
    for a, b in itertools.product(("abcd", "dcba", "xabc", "wxyz"), repeat=2):
        for p in (0.5, 0.9):
            assert rank_biased_overlap(a, b, p) == pytest.approx(brute(a, b, p))


def test_rank_biased_overlap_allows_for_lists_of_different_lengths() -> None:
    assert rank_biased_overlap("ab", "abcd") == pytest.approx(1.0)  # all that can be said agrees
    assert rank_biased_overlap("abcd", "ab") == pytest.approx(1.0)
    assert rank_biased_overlap("", "abcd") == 0.0
    assert rank_biased_overlap("", "") == 1.0
    assert 0.0 < rank_biased_overlap("ax", "abcd") < 1.0


def test_rank_biased_overlap_is_what_comes_out_by_hand() -> None:
    """Eq. 32 with p = .9: (1 - p) / p times the sum of X_d / d p^d, and the rest of the weight."""
    # "ab" and "ba": X = 0, 2. 1/9 * (0 + 1 * .81) + 1 * .81
    assert rank_biased_overlap("ab", "ba") == pytest.approx(0.9)
    # "ab" and "ac": X = 1, 1. 1/9 * (.9 + .5 * .81) + .5 * .81
    assert rank_biased_overlap("ab", "ac") == pytest.approx(0.55)
    # "a" and "ba", s = 1, l = 2: X = 0, 1. 1/9 * (0 + .5 * .81 + 0) + (1/2 + 0) * .81
    assert rank_biased_overlap("a", "ba") == pytest.approx(0.45)


@given(RANKINGS, RANKINGS, PERSISTENCES)
def test_both_are_symmetric_and_between_none_and_all(a: list[str], b: list[str], p: float) -> None:
    assert rank_biased_overlap(a, b, p) == rank_biased_overlap(b, a, p)
    assert overlap(a, b) == overlap(b, a)
    assert 0.0 <= rank_biased_overlap(a, b, p) <= 1.0
    assert 0.0 <= overlap(a, b) <= 1.0


@given(RANKINGS, PERSISTENCES)
def test_a_ranking_agrees_with_itself(a: list[str], p: float) -> None:
    assert rank_biased_overlap(a, a, p) == pytest.approx(1.0)
    assert overlap(a, a) == 1.0


@given(RANKINGS, RANKINGS)
def test_rankings_of_other_items_have_nothing_in_common(a: list[str], b: list[str]) -> None:
    others = [letter.upper() for letter in b]
    if a or others:
        assert rank_biased_overlap(a, others) == overlap(a, others) == 0.0


@given(RANKINGS, RANKINGS, st.permutations(range(5)))
def test_the_order_counts_in_one_of_them_alone(
    a: list[str], b: list[str], order: list[int]
) -> None:
    reordered = [a[place] for place in order if place < len(a)] + a[5:]
    assert overlap(reordered, b) == overlap(a, b)
    assert rank_biased_overlap(reordered, a) <= 1.0


def test_the_first_places_count_most() -> None:
    late, early = "abcdefghxy", "xycdefghij"
    assert overlap("abcdefghij", late) == overlap("abcdefghij", early) == 0.8
    assert rank_biased_overlap("abcdefghij", late) > rank_biased_overlap("abcdefghij", early)
