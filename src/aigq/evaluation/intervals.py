"""From samples to users to a mean with a 95 % interval: pure functions on arrays.

Values are per sample first, then the mean over each user's samples, then the mean over users. The interval
is the percentile bootstrap over users: users are drawn with replacement, the mean is taken again, and the
2.5 % and 97.5 % quantiles of those means are the bounds. All columns see the same resamples, so that
differences between systems are paired.
"""

import numpy as np

_CELLS = 8_000_000  # resampled user indices held in memory at a time


def user_means(values: np.ndarray, users: np.ndarray, n_users: int) -> np.ndarray:
    """Mean over each user's samples, leaving NaN out; NaN for a user all of whose samples are NaN.

    Args:
        values: (samples, columns).
        users: user number of each sample, 0..n_users-1.
        n_users: how many users.
    """
    counted = ~np.isnan(values)
    sums = _by_user(np.where(counted, values, 0.0), users, n_users)
    counts = _by_user(counted.astype(float), users, n_users)
    return _ratio(sums, counts)


def mean_over_users(values: np.ndarray) -> np.ndarray:
    """Mean of each column over the users that count for it; NaN when there is none."""
    counted = ~np.isnan(values)
    counts = counted.sum(axis=0)
    sums = np.where(counted, values, 0.0).sum(axis=0)
    return _ratio(sums, counts)


def bootstrap95(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """95 % percentile intervals of `mean_over_users`, shape (columns, 2). NaN where a column has no users.

    Args:
        values: (users, columns), NaN where a user does not count.
        resamples: how many times users are drawn with replacement.
        seed: equal seeds give equal resamples.
    """
    n_users, columns = values.shape
    means = np.full((resamples, columns), np.nan)
    if n_users:
        rng = np.random.default_rng(seed)
        counted = ~np.isnan(values)
        filled = np.where(counted, values, 0.0)
        chunk = max(1, _CELLS // n_users)
        for start in range(0, resamples, chunk):
            weights = _draw(rng, min(chunk, resamples - start), n_users)
            sums, counts = weights @ filled, weights @ counted.astype(float)
            out = means[start : start + chunk]
            np.divide(sums, counts, out=out, where=counts > 0)
    bounds = np.full((columns, 2), np.nan)
    usable = ~np.isnan(means).all(axis=0)
    if usable.any():
        bounds[usable] = np.nanpercentile(means[:, usable], [2.5, 97.5], axis=0).T
    return bounds


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    ratio = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=ratio, where=counts > 0)
    return ratio


def _draw(rng: np.random.Generator, resamples: int, n_users: int) -> np.ndarray:
    drawn = rng.integers(0, n_users, size=(resamples, n_users))
    drawn += np.arange(resamples)[:, None] * n_users
    return np.bincount(drawn.ravel(), minlength=resamples * n_users).reshape(resamples, n_users).astype(float)


def _by_user(values: np.ndarray, users: np.ndarray, n_users: int) -> np.ndarray:
    columns = values.shape[1]
    keys = users[:, None] * columns + np.arange(columns)
    return np.bincount(keys.ravel(), values.ravel(), minlength=n_users * columns).reshape(n_users, columns)
