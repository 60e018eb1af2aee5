"""Statistics of a sample of runs: mean, standard deviation, intervals, and a comparison of two configurations.

Pure: no I/O. Every random number comes from a named generator with a fixed seed. So the same values, in any order, give
the same intervals. scipy is only imported where it is needed, because the import takes a second.
"""

import itertools
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from samebits.core.errors import ConfigError
from samebits.core.seeds import derive_seed, make_rng

CONFIDENCE = 0.95
RESAMPLES = 9_999
MAX_DRAWS = 10_000_000  # values drawn by a bootstrap; above 1000 values it uses fewer resamples, and no BCa
MIN_RESAMPLES = 999
MIN_FOR_A_SHARE = 5  # values: the variance of fewer is wrong by more than a factor of two either way
MAX_TRIPLES = 10_000
ELEMENTS_PER_BATCH = 1_000_000  # limits the memory of a bootstrap to 8 MB
TRIM = 0.25  # cut off at each end, for the interquartile mean
SEEDS_OF_A_PAPER = 3
MIN_SEEDS = 3  # for an interval in the report
Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """The statistics of a sample. None: the sample is too small.

    Attributes:
        n: The number of values.
        sd: Standard deviation with n - 1 (None: one value).
        interquartile_mean: Mean without the lowest and the highest quarter.
        interval: 95 % bootstrap interval of the mean (None: one value).
        best_seed: The seed of the best value (None: it is not known whether higher is better); so is worst_seed.
        three_seeds: Share of three-seed subsets whose mean lies in the interval (None: fewer than four values).
    """

    n: int
    mean: float
    sd: float | None
    median: float
    interquartile_mean: float
    interval: Interval | None
    best_seed: int | None
    worst_seed: int | None
    three_seeds: float | None


@dataclass(frozen=True)
class PairedComparison:
    """Two configurations, compared by seed.

    Attributes:
        n: The number of seeds.
        difference: Mean of b - a.
        interval: Its 95 % bootstrap interval (None: one seed).
        probability_of_improvement: Share of seeds for which b is better; a tie counts half.
        probability_interval: Its 95 % bootstrap interval (None: one seed).
        wins: Number of seeds for which b is better.
        ties: Number of seeds for which they are equal.
        losses: Number of seeds for which a is better.
        three_seeds: Share of three-seed subsets whose mean difference has the sign of the overall difference (None:
            fewer than four seeds, or no difference).
    """

    n: int
    difference: float
    interval: Interval | None
    probability_of_improvement: float
    probability_interval: Interval | None
    wins: int
    ties: int
    losses: int
    three_seeds: float | None


def standard_deviation(values: np.ndarray, axis: int = -1) -> Any:
    """Return the standard deviation with n - 1."""
    return np.std(values, ddof=1, axis=axis)


def bootstrap_interval(values: Sequence[float], statistic: Callable[..., Any] = np.mean) -> Interval | None:
    """Return the 95 % bootstrap interval of a statistic: BCa, or percentiles where BCa is undefined.

    BCa corrects the bias and skewness of small samples. Its cost grows with the square of the sample size, so above
    1000 values the interval uses percentiles.

    Args:
        values: float64[n], in any order.
        statistic: A function of an array and an `axis`.

    Returns:
        (low, high). None: fewer than two values.

    Source: Efron (1987), "Better bootstrap confidence intervals"; scipy.stats.bootstrap.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    if len(sample) < 2:  # noqa: PLR2004  an interval needs two
        return None
    if sample[0] == sample[-1]:
        value = float(statistic(sample, axis=-1))
        return value, value
    from scipy import stats  # noqa: PLC0415  slow to import

    found: Interval = (float("nan"), float("nan"))
    large = RESAMPLES * len(sample) > MAX_DRAWS
    resamples = max(MIN_RESAMPLES, MAX_DRAWS // len(sample)) if large else RESAMPLES
    for method in ("percentile",) if large else ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where BCa is undefined, it warns and returns NaN
            interval = stats.bootstrap(
                (sample,),
                statistic,
                n_resamples=resamples,
                batch=max(1, ELEMENTS_PER_BATCH // len(sample)),
                confidence_level=CONFIDENCE,
                method=method,
                rng=make_rng(derive_seed(0, "study/bootstrap"), "study/bootstrap"),
            ).confidence_interval
        found = float(interval.low), float(interval.high)
        if np.isfinite(found).all():
            break
    return found


def rounded_interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % bootstrap interval of the mean, rounded to six digits. None: fewer than three values."""
    found = bootstrap_interval(values) if len(values) >= MIN_SEEDS else None
    return found and (float(f"{found[0]:.6g}"), float(f"{found[1]:.6g}"))


def describe_sample(values: Sequence[float]) -> dict[str, Any]:
    """Return values with their mean, standard deviation and interval, rounded to six digits, for the report."""
    return {
        "values": list(values),
        "mean": float(f"{statistics.fmean(values):.6g}"),
        "sd": float(f"{statistics.stdev(values):.6g}") if len(values) > 1 else None,
        "interval": rounded_interval(values),
    }


def variance_ratio(part: Sequence[float], whole: Sequence[float]) -> tuple[float, Interval] | None:
    """Return the variance of one sample as a share of another's, with its 95 % bootstrap interval (percentiles).

    Args:
        part: float64[n], in any order.
        whole: float64[m], independent of `part`.

    Returns:
        (share, (low, high)). None: a sample has fewer than five values, or all values of `whole` are equal.
    """
    samples = [np.sort(np.asarray(values, dtype=np.float64)) for values in (part, whole)]
    if min(len(sample) for sample in samples) < MIN_FOR_A_SHARE or samples[1][0] == samples[1][-1]:
        return None
    rng = make_rng(derive_seed(0, "study/shares"), "study/shares")
    resamples = min(RESAMPLES, max(MIN_RESAMPLES, MAX_DRAWS // max(map(len, samples))))
    variances = [
        np.array([np.var(rng.choice(sample, len(sample)), ddof=1) for _ in range(resamples)]) for sample in samples
    ]
    defined = variances[1] > 0
    low, high = np.percentile(variances[0][defined] / variances[1][defined], [2.5, 97.5])
    share = np.var(samples[0], ddof=1) / np.var(samples[1], ddof=1)
    return float(share), (float(low), float(high))


def triple_means(values: Sequence[float]) -> np.ndarray:
    """Return the means of all three-value subsets, or of 10,000 random ones if there are more: float64[triples]."""
    sample = np.sort(np.asarray(values, dtype=np.float64))
    n = len(sample)
    if n * (n - 1) * (n - 2) // 6 <= MAX_TRIPLES:
        chosen = np.array(list(itertools.combinations(range(n), SEEDS_OF_A_PAPER)), dtype=np.int64)
    else:
        rng = make_rng(derive_seed(0, "study/triples"), "study/triples")
        # Three different indices, uniformly: one of n, n - 1 and n - 2, moved up past those already chosen.
        first = rng.integers(0, n, MAX_TRIPLES)
        second = rng.integers(0, n - 1, MAX_TRIPLES)
        second += second >= first
        third = rng.integers(0, n - 2, MAX_TRIPLES)
        third += third >= np.minimum(first, second)
        third += third >= np.maximum(first, second)
        chosen = np.stack([first, second, third], axis=1)
    return np.asarray(sample[chosen].mean(axis=1))


def summarize(values: Sequence[float], seeds: Sequence[int], *, higher_is_better: bool | None = True) -> Summary:
    """Return the statistics of a sample.

    Args:
        values: float64[n], one per seed.
        seeds: The seed of each value.
        higher_is_better: Decides which seed is the best (None: unknown). Among equal values it is the smallest seed.

    Raises:
        ConfigError: There are no values, or not one per seed.
    """
    if not values or len(values) != len(seeds):
        raise ConfigError(
            "sample", expected="one value per seed, and at least one", received=f"{len(values)} of {len(seeds)} seeds",
            fix="summarize finished runs only",
        )  # fmt: skip
    from scipy import stats  # noqa: PLC0415  slow to import

    sample = np.asarray(values, dtype=np.float64)
    sign = -1 if higher_is_better else 1
    order = sorted(range(len(values)), key=lambda place: (sign * values[place], seeds[place]))
    worst = min(order, key=lambda place: (-sign * values[place], seeds[place]))
    interval = bootstrap_interval(values)
    truth = None
    if interval is not None and len(sample) > SEEDS_OF_A_PAPER:
        means = triple_means(values)
        tolerance = 1e-12 * max(1.0, float(np.abs(sample).max()))  # the mean of equal values may be rounded
        truth = float(np.mean((means >= interval[0] - tolerance) & (means <= interval[1] + tolerance)))
    return Summary(
        n=len(sample),
        mean=float(sample.mean()),
        sd=float(standard_deviation(sample)) if len(sample) > 1 else None,
        median=float(np.median(sample)),
        interquartile_mean=float(stats.trim_mean(sample, TRIM)),
        interval=interval,
        best_seed=None if higher_is_better is None else seeds[order[0]],
        worst_seed=None if higher_is_better is None else seeds[worst],
        three_seeds=truth,
    )


def compare_paired(a: Sequence[float], b: Sequence[float], *, higher_is_better: bool = True) -> PairedComparison:
    """Return how configuration b differs from a, seed by seed.

    Args:
        a: float64[n] of the first configuration.
        b: float64[n] of the second, in the same order of seeds.
        higher_is_better: Decides what a win is.

    Raises:
        ConfigError: The lengths differ, or are zero.
    """
    if not a or len(a) != len(b):
        raise ConfigError(
            "paired comparison", expected="the same number of values for both, and at least one",
            received=f"{len(a)} and {len(b)}", fix="compare the seeds that both configurations finished",
        )  # fmt: skip
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    gains = differences if higher_is_better else -differences
    outcomes = (np.sign(gains) + 1) / 2
    difference = float(differences.mean())
    truth = None
    if len(differences) > SEEDS_OF_A_PAPER and difference:
        truth = float(np.mean(np.sign(triple_means(differences.tolist())) == np.sign(difference)))
    return PairedComparison(
        n=len(differences),
        difference=difference,
        interval=bootstrap_interval(differences.tolist()),
        probability_of_improvement=float(outcomes.mean()),
        probability_interval=bootstrap_interval(outcomes.tolist()),
        wins=int((gains > 0).sum()),
        ties=int((gains == 0).sum()),
        losses=int((gains < 0).sum()),
        three_seeds=truth,
    )
