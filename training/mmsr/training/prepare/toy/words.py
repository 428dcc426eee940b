"""Writes an item's title and description: a motif, a material and a mood in several phrasings.

The words say nothing of the picture's colour or form and nothing of the department.
"""

from dataclasses import dataclass

import numpy as np

from mmsr.training.prepare.toy.factors import TEXT_STREAM, subject_attributes
from mmsr.training.prepare.toy.vocabulary import (
    BRANDS,
    CLOSINGS,
    MATERIALS,
    MOODS,
    OPENINGS,
    SUBJECTS,
    TITLES,
    WORKMANSHIP,
)

CHOICES = 10  # random numbers that one item's texts take


@dataclass(frozen=True, kw_only=True)
class ItemText:
    """Title, description and brand of an item."""

    title: str
    description: str
    brand: str


class Writer:
    """Writes texts; the same item of the same seed always gets the same."""

    def __init__(self, seed: int, items: int) -> None:
        rng = np.random.default_rng([seed, TEXT_STREAM])
        self.choices_NC = rng.integers(1 << 30, size=(items, CHOICES), dtype=np.int32)

    def write(self, item: int, subject: int) -> ItemText:
        """Return the texts of an item about `subject`."""
        c = self.choices_NC[item].tolist()
        material, mood = subject_attributes(subject)
        motif = SUBJECTS[subject]
        words = {
            "noun": _pick(motif.nouns, c[0]),
            "other": _pick(motif.nouns, c[0] + 1 + c[1] % (len(motif.nouns) - 1)),
            "scene": _pick(motif.scenes, c[2]),
            "material": _pick(MATERIALS[material], c[3]),
            "mood": _pick(MOODS[mood], c[4]),
        }
        words |= {f"a_{key}": _with_article(words[key]) for key in ("noun", "other", "mood")}
        sentences = (_pick(OPENINGS, c[6]), _pick(WORKMANSHIP, c[7]), _pick(CLOSINGS[mood], c[8]))
        return ItemText(
            title=_sentence(_pick(TITLES, c[5]), words),
            description=" ".join(_sentence(sentence, words) for sentence in sentences),
            brand=_pick(BRANDS, c[9]),
        )


def _pick(choices: tuple[str, ...], number: int) -> str:
    return choices[number % len(choices)]


def _with_article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _sentence(template: str, words: dict[str, str]) -> str:
    text = template.format_map(words)
    return text[0].upper() + text[1:]
