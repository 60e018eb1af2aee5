"""Names of metrics: which are better higher, and their order in a table."""

import pathlib
import subprocess
import sys

import pytest
from conftest import QUIET, ROOT

from samebits.compose import compose
from samebits.core.config_rules import check
from samebits.core.errors import ConfigError
from samebits.core.metrics import Monitor, held_out_names, higher_is_better, order_names, table_names
from samebits.core.terminal import describe_value, describe_values
from samebits.runs.effects import CHANGES, MAY, effect_of

LOWER = (
    "loss", "val_loss", "test_loss", "digit_loss", "accuracy_loss", "mae", "val_mse", "rmse", "mean_absolute_error",
    "mean_squared_logarithmic_error", "kl_divergence", "squared_hinge", "categorical_crossentropy", "perplexity",
    "false_positives_2", "poisson", "logcosh", "d_loss",
)  # fmt: skip
HIGHER = (
    "accuracy", "val_accuracy", "digit_accuracy", "sparse_top_k_categorical_accuracy", "auc", "val_auc_1", "precision",
    "recall_at_precision", "f1_score", "fbeta_score", "r2_score", "binary_io_u", "mean_iou", "dice", "true_negatives",
    "cosine_similarity", "error_accuracy", "concordance_correlation", "sensitivity_at_specificity",
)  # fmt: skip
ASK_KERAS = """
import inspect, keras
from samebits.core.metrics import higher_is_better
for name, each in sorted(vars(keras.metrics).items()):
    if inspect.isclass(each) and issubclass(each, keras.Metric):
        own = inspect.signature(each).parameters["name"].default
        print(name, higher_is_better(own or keras.src.utils.naming.to_snake_case(name)))
"""


@pytest.mark.parametrize(("names", "higher"), [(LOWER, False), (HIGHER, True), (("score", "beta", "val_x"), None)])
def test_a_name_says_whether_higher_is_better(names: tuple[str, ...], *, higher: bool | None) -> None:
    """The last known word decides, whatever the output, the split and the number."""
    assert dict.fromkeys(names, higher) == {name: higher_is_better(name) for name in names}


@pytest.mark.full
def test_the_metrics_of_keras_are_known() -> None:
    """All of Keras's metrics have a direction by name, except means and sums of anything."""
    environment = QUIET | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", ASK_KERAS], env=environment, capture_output=True, text=True, check=True
    )
    found = dict(line.split() for line in done.stdout.splitlines())

    assert {"Mean", "MeanMetricWrapper", "Metric", "Sum"} == {
        name for name, higher in found.items() if higher == "None"
    }
    assert ("True", "False") == (found["BinaryIoU"], found["MeanAbsoluteError"])


def test_an_unknown_monitor_needs_a_mode(tmp_path: pathlib.Path) -> None:
    """The error asks for training.monitor_mode; with it, the metric, its split and no other have that direction."""
    words = ["experiment=smoke", f"paths.runs={tmp_path}", "training.monitor=val_wealth"]
    with pytest.raises(ConfigError, match="monitor_mode: expected min or max, because the name val_wealth does not"):
        check(compose(ROOT, words))
    check(compose(ROOT, [*words, "training.monitor_mode=max"]))
    monitor = Monitor("val_wealth", "min")

    assert (False, False, True, None) == tuple(map(monitor.higher_is_better, ("val_wealth", "wealth", "auc", "health")))


@pytest.mark.parametrize(
    ("word", "received"),
    [
        ("training.monitor=test_loss", "a test split that ranks runs is no test"),
        ("training.monitor_mode=up", "expected min or max, or null"),
        ("training.monitor=''", "the name of a metric"),
    ],
)
def test_a_wrong_monitor_is_refused(word: str, received: str) -> None:
    """The test split cannot rank runs."""
    with pytest.raises(ConfigError, match=received):
        check(compose(ROOT, ["experiment=smoke", word]))


def test_a_monitor_may_change_bits() -> None:
    """It does only where the best weights are kept, so its effect is not certain."""
    assert (MAY, MAY, CHANGES) == tuple(
        effect_of(f"config training.{key}") for key in ("monitor", "monitor_mode", "epochs")
    )


def test_a_table_starts_with_the_monitored_metric() -> None:
    """Then come the loss and the other validation metrics; training metrics only if there are no others."""
    names = ["loss", "mae", "test_mae", "val_loss", "val_mae", "val_rmse", "test_loss"]

    assert ["val_mae", "val_loss", "val_rmse"] == table_names(names, "val_mae")
    assert ["mae", "val_loss", "val_mae", "val_rmse"] == table_names(names, "mae")
    assert ["val_loss", "val_mae", "val_rmse"] == table_names(names, "val_loss") == table_names(names, "val_absent")
    assert ["loss", "mae"] == table_names(["mae", "loss"], "val_loss")
    assert [] == table_names([], "val_loss")
    assert ["test_mae", "test_loss"] == held_out_names(names)
    assert ["val_mae", "val_loss", "loss", "mae", "val_rmse", "test_mae", "test_loss"] == order_names(names, "val_mae")
    assert 6 == len(table_names([f"val_{number}" for number in range(20)], "val_loss"))


def test_small_and_large_values_keep_their_digits() -> None:
    """Four decimals where they show enough, else four digits; a missing value is a dash."""
    values = {"a": 0.85, "b": -0.00012345, "c": 1_234_567.0, "d": 0.0, "e": float("nan")}

    assert "a 0.8500  b -0.0001234  c 1.235e+06  d 0.0000  e nan" == describe_values(values)
    assert ("-", "+0.5000") == (describe_value(None), describe_value(0.5, "+"))
