"""How far some vectors are from others, row by row. Imports no torch."""

# n rows, F columns

import numpy as np
import numpy.typing as npt


def min_cosine(found_nF: npt.NDArray[np.float32], wanted_nF: npt.NDArray[np.float32]) -> float:
    """Return the smallest cosine of corresponding rows; two zero rows agree."""
    norms = np.linalg.norm(found_nF, axis=1) * np.linalg.norm(wanted_nF, axis=1)
    products = (found_nF * wanted_nF).sum(axis=1)
    same_zero = (norms == 0) & (np.abs(found_nF - wanted_nF).max(axis=1) == 0)
    cosines = np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), same_zero)
    return float(cosines.min())


def max_distance(found_nF: npt.NDArray[np.float32], wanted_nF: npt.NDArray[np.float32]) -> float:
    """Return the largest distance of corresponding rows, relative to the length of the wanted.

    What a cosine does not see is a scale that was left out.
    """
    lengths = np.linalg.norm(wanted_nF, axis=1)
    distances = np.linalg.norm(found_nF - wanted_nF, axis=1)
    of_zero = np.where(distances == 0, 0.0, np.inf)
    relative = distances / np.where(lengths > 0, lengths, 1.0)
    return float(np.where(lengths > 0, relative, of_zero).max())
