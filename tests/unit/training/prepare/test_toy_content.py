import numpy as np

from mmsr.training.prepare.toy.factors import LEAVES, LEAVES_PER_TOP, LOOKS, SUBJECTS, TOPS
from mmsr.training.prepare.toy.pictures import PALETTE, draw
from mmsr.training.prepare.toy.shop import category_names
from mmsr.training.prepare.toy.vocabulary import (
    CLOSINGS,
    DEPARTMENTS,
    MATERIALS,
    MOODS,
    OPENINGS,
    TITLES,
    WORKMANSHIP,
)
from mmsr.training.prepare.toy.vocabulary import SUBJECTS as MOTIFS
from mmsr.training.prepare.toy.words import Writer


def test_random_filters_tell_the_looks_apart() -> None:
    side, kernel = 40, 5
    pictures_PHWC = np.stack(
        [
            np.asarray(draw(look, np.random.default_rng([look, k]), side), dtype=np.float32) / 255
            for look in range(LOOKS)
            for k in range(4)
        ]
    )
    windows = np.lib.stride_tricks.sliding_window_view(pictures_PHWC, (kernel, kernel), (1, 2))
    patches = windows[:, ::2, ::2].reshape(len(pictures_PHWC), -1, 3 * kernel * kernel)
    filters = np.random.default_rng(0).normal(size=(patches.shape[2], 96)).astype(np.float32)
    features_PF = np.maximum((patches - 0.5) @ filters, 0).mean(1)
    features_PF /= features_PF.std(0)
    distance_PP = np.linalg.norm(features_PF[:, None] - features_PF[None], axis=2)
    np.fill_diagonal(distance_PP, np.inf)
    look_P = np.arange(LOOKS).repeat(4)
    right = float((look_P[distance_PP.argmin(1)] == look_P).mean())
    assert right > 0.6, right  # by chance 0.03


def test_pictures_have_the_colour_of_their_look() -> None:
    for look in range(len(PALETTE)):
        picture = np.asarray(draw(look, np.random.default_rng(look), 64), dtype=float) / 255
        middle = picture[20:44, 20:44].reshape(-1, 3)
        to_each = np.linalg.norm(middle[:, None, None] - PALETTE[None], axis=3)
        nearest = to_each.min(2).argmin(1)
        assert np.bincount(nearest, minlength=8).argmax() == look


def test_texts_say_their_subject_in_several_ways() -> None:
    writer = Writer(seed=0, items=40 * SUBJECTS)
    for subject, motif in enumerate(MOTIFS):
        texts = [writer.write(40 * subject + n, subject) for n in range(40)]
        assert len({text.title for text in texts}) >= 30
        for text in texts:
            words = f"{text.title} {text.description}".lower()
            assert any(noun in words for noun in motif.nouns)
            assert any(scene.lower() in words for scene in motif.scenes)


def test_articles_fit_their_words() -> None:
    writer = Writer(seed=0, items=2_000)
    for item in range(2_000):
        text = writer.write(item, item % SUBJECTS).description.lower()
        assert not any(f" a {vowel}" in text for vowel in "aei")


def test_the_vocabulary_has_a_word_for_every_class() -> None:
    assert (len(MOTIFS), len(MATERIALS), len(MOODS), len(CLOSINGS)) == (SUBJECTS, 5, 4, 4)
    assert len(DEPARTMENTS) == TOPS
    assert {len(leaves) for _, leaves in DEPARTMENTS} == {LEAVES_PER_TOP}
    names = [top for top, _ in DEPARTMENTS] + [n for _, leaves in DEPARTMENTS for n in leaves]
    assert len(set(names)) == TOPS + LEAVES  # a name is one category
    assert len({noun for motif in MOTIFS for noun in motif.nouns}) == 6 * SUBJECTS
    assert min(map(len, (TITLES, OPENINGS, WORKMANSHIP))) >= 5


def test_two_leaves_of_one_department_name_it_once() -> None:
    assert category_names([0, 1]) == ["Kitchen", "Countertop", "Dining Table"]
    assert category_names([0, 5]) == ["Kitchen", "Countertop", "Living Room", "Mantelpiece"]
