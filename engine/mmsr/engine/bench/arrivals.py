"""When requests are meant to be sent. Pure: a seed in, times out."""

import numpy as np
import numpy.typing as npt

# A arrivals


def poisson_arrivals_s(rate_per_s: float, total_s: float, seed: int) -> npt.NDArray[np.float64]:
    """Return Poisson arrival times [A] in [0, total_s), in seconds, ascending.

    Independent users arrive so: the gaps are exponential with mean 1 / rate_per_s. Given their
    number, the times are uniform, which is how they are drawn here.
    """
    random = np.random.default_rng(seed)
    count = random.poisson(rate_per_s * total_s)
    return np.sort(random.uniform(0.0, total_s, count))
