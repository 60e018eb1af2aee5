"""The statistics of a study, compared with values computed by hand, by scipy and by NumPy."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import QUIET, ROOT
from scipy import stats

from samebits.core.errors import ConfigError
from samebits.core.seeds import derive_seed, make_rng
from samebits.studies.intervals import (
    RESAMPLES,
    bootstrap_interval,
    compare_paired,
    standard_deviation,
    summarize,
    triple_means,
    variance_ratio,
)

VALUES = [0.1, 0.4, 0.2, 0.9, 0.3, 0.8, 0.5, 0.6]
SEEDS = list(range(1, 9))


def test_a_summary_has_the_hand_computed_numbers() -> None:
    """1, 2, 3, 10 have mean 4, standard deviation sqrt(50 / 3), median 2.5, interquartile mean 2.5."""
    summary = summarize([1.0, 2.0, 3.0, 10.0], [5, 6, 7, 8])

    assert (4, 4.0, 2.5, 2.5) == (summary.n, summary.mean, summary.median, summary.interquartile_mean)
    assert (50 / 3) ** 0.5 == summary.sd
    assert (8, 5) == (summary.best_seed, summary.worst_seed)


def test_a_lower_loss_is_the_best() -> None:
    """If lower is better, best and worst seed swap; among equal values it is the smallest seed."""
    summary = summarize([1.0, 1.0, 3.0, 3.0], [8, 5, 7, 6], higher_is_better=False)

    assert (5, 6) == (summary.best_seed, summary.worst_seed)


def test_the_interval_is_that_of_scipy() -> None:
    """The interval is scipy's BCa interval of the mean, with the generator study/bootstrap."""
    rng = make_rng(derive_seed(0, "study/bootstrap"), "study/bootstrap")
    interval = stats.bootstrap((np.sort(VALUES),), np.mean, n_resamples=RESAMPLES, method="BCa", rng=rng)

    assert tuple(interval.confidence_interval) == bootstrap_interval(VALUES)


def test_the_interval_does_not_depend_on_the_order() -> None:
    """The same values in any order give the same interval, and other values another."""
    shuffled = [VALUES[place] for place in (3, 0, 7, 5, 1, 6, 2, 4)]

    assert bootstrap_interval(VALUES) == bootstrap_interval(shuffled)
    assert bootstrap_interval(VALUES) != bootstrap_interval([*VALUES[:-1], 0.7])


def test_the_interval_of_a_spread_holds_the_spread() -> None:
    """The interval works for any statistic."""
    interval = bootstrap_interval(VALUES, standard_deviation)

    assert interval is not None
    assert interval[0] < np.std(VALUES, ddof=1) < interval[1]


def test_where_bca_is_undefined_percentiles_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """If BCa gives NaN, percentiles replace it without a warning."""
    bootstrap = stats.bootstrap

    def broken(sample: object, statistic: object, *, method: str, **options: object) -> object:
        undefined = method == "BCa"
        of = (lambda x, axis: np.mean(x, axis=axis) * np.nan) if undefined else statistic
        return bootstrap(sample, of, method=method, **options)

    monkeypatch.setattr(stats, "bootstrap", broken)
    rng = make_rng(derive_seed(0, "study/bootstrap"), "study/bootstrap")
    expected = bootstrap((np.sort(VALUES),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)

    assert tuple(expected.confidence_interval) == bootstrap_interval(VALUES)


def test_one_value_has_no_spread() -> None:
    """One value has no standard deviation and no interval."""
    summary = summarize([0.5], [3])

    assert (0.5, None, None, None) == (summary.mean, summary.sd, summary.interval, summary.three_seeds)
    assert (3, 3) == (summary.best_seed, summary.worst_seed)


def test_equal_values_have_a_spread_of_zero() -> None:
    """For equal values the interval is the value, and all three-seed means lie in it."""
    summary = summarize([0.25] * 5, [1, 2, 3, 4, 5])

    assert (0.0, (0.25, 0.25), 1.0) == (summary.sd, summary.interval, summary.three_seeds)
    assert (1, 1) == (summary.best_seed, summary.worst_seed)


@pytest.mark.parametrize(("values", "seeds"), [([], []), ([1.0], [1, 2])])
def test_a_sample_without_a_value_for_each_seed_is_refused(values: list[float], seeds: list[int]) -> None:
    """The error says how many values there are."""
    with pytest.raises(ConfigError, match="expected one value per seed"):
        summarize(values, seeds)


def test_all_triples_are_taken_where_they_are_few() -> None:
    """The four triples of 0, 3, 6, 9 have the means 3, 4, 5, 6."""
    assert [3.0, 4.0, 5.0, 6.0] == triple_means([9.0, 0.0, 3.0, 6.0]).tolist()


def test_many_triples_are_drawn_of_three_different_places() -> None:
    """Powers of four identify the values of a triple; each value is equally frequent."""
    values = [4.0**place for place in range(45)]
    sums = np.rint(triple_means([*values]) * 3)
    places = [[place for place in range(45) if int(total) >> (2 * place) & 3] for total in sums if total < 2**50]

    assert len(sums) == 10_000
    assert all(len(triple) == 3 for triple in places)
    assert triple_means(values).tolist() == triple_means(values[::-1]).tolist()


def test_a_paired_comparison_has_the_hand_computed_numbers() -> None:
    """Two wins, one tie and one loss give 2.5 of 4; the mean difference is 0.5."""
    comparison = compare_paired([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 3.0, 3.0])

    assert (4, 0.5, 0.625) == (comparison.n, comparison.difference, comparison.probability_of_improvement)
    assert (2, 1, 1) == (comparison.wins, comparison.ties, comparison.losses)
    assert bootstrap_interval([1.0, 2.0, 0.0, -1.0]) == comparison.interval
    assert 0.75 == comparison.three_seeds  # of 1+2+0, 1+2-1, 1+0-1, 2+0-1 the third is not above 0


def test_a_lower_loss_is_a_win() -> None:
    """If lower is better, wins and losses swap, and the difference stays b - a."""
    comparison = compare_paired([1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 3.0, 3.0], higher_is_better=False)

    assert (1, 1, 2) == (comparison.wins, comparison.ties, comparison.losses)
    assert (0.5, 0.375) == (comparison.difference, comparison.probability_of_improvement)


def test_equal_configurations_do_not_differ() -> None:
    """If every seed ties, there is no sign that three seeds could show."""
    comparison = compare_paired([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4])

    assert (0.0, (0.0, 0.0), 0.5, 4) == (
        comparison.difference,
        comparison.interval,
        comparison.probability_of_improvement,
        comparison.ties,
    )
    assert None is comparison.three_seeds


def test_unpaired_samples_are_refused() -> None:
    """A seed that only one configuration has is not compared."""
    with pytest.raises(ConfigError, match="received 1 and 2"):
        compare_paired([1.0], [1.0, 2.0])


def test_importing_the_statistics_imports_neither_scipy_nor_tensorflow() -> None:
    """A command that only prints help does not import scipy."""
    slow = ("scipy", "tensorflow", "keras")
    code = f"import samebits.studies.intervals, sys; print([n for n in {slow} if n in sys.modules])"
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert "[]\n" == done.stdout


def test_a_large_sample_costs_bounded_draws_and_has_the_normal_interval() -> None:
    """Above 1000 values the interval is the mean ± 1.96 standard errors, to a fifth of one, in any order."""
    values = np.random.default_rng(1).normal(0.8, 0.1, 10_000)
    low, high = bootstrap_interval(values.tolist()) or (0.0, 0.0)
    error = values.std(ddof=1) / 100

    assert abs(low - (values.mean() - 1.96 * error)) < 0.2 * error
    assert abs(high - (values.mean() + 1.96 * error)) < 0.2 * error
    assert (low, high) == bootstrap_interval(values[::-1].tolist())


def test_a_share_of_variance_needs_five_values_and_a_whole_that_varies() -> None:
    """The interval contains the true ratio; too few values or no variance give no ratio."""
    rng = np.random.default_rng(2)
    part, whole = rng.normal(0, 1, 200).tolist(), rng.normal(0, 2, 200).tolist()
    share, (low, high) = variance_ratio(part, whole) or (0.0, (0.0, 0.0))

    assert low < 0.25 < high
    assert low < share < high
    assert variance_ratio(part[:4], whole) is None
    assert variance_ratio(part, whole[:4]) is None
    assert variance_ratio(part, [1.0] * 9) is None
