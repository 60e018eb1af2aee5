"""Knows the names of metrics: what they measure, whether higher is better, and their order in a table. Pure.

The names are those that Keras gives: "loss", "mae", "digit_loss"; with "val_" for the validation split and "test_" for
the test split. No name is required.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from samebits.core.errors import ConfigError

VALIDATION, TEST = "val_", "test_"
MONITOR, MODES = "val_loss", ("min", "max")  # the default of training.monitor; the values of training.monitor_mode
MAX_COLUMNS = 6  # metrics of a table
LOWER_IS_BETTER = frozenset((
    "brier", "cer", "crossentropy", "divergence", "distance", "entropy", "error", "false", "hinge", "huber", "kl",
    "kld", "logcosh", "loss", "mae", "mape", "mse", "msle", "nll", "perplexity", "poisson", "rmse", "wer",
))  # fmt: skip
HIGHER_IS_BETTER = frozenset((
    "acc", "accuracy", "auc", "bleu", "correlation", "dice", "f1", "fbeta", "iou", "jaccard", "kappa", "mcc", "ndcg",
    "precision", "psnr", "r2", "recall", "rouge", "sensitivity", "similarity", "specificity", "ssim", "true",
))  # fmt: skip


def base_name(name: str) -> str:
    """Return a metric's name without the prefix of its split."""
    return name.removeprefix(VALIDATION).removeprefix(TEST)


def higher_is_better(name: str) -> bool | None:
    """Return whether higher values of a metric are better, by the last known word in its name.

    Keras puts the name of an output first ("digit_loss") and a number last ("auc_1").

    Returns:
        None: no word in the name is known.
    """
    words = re.findall(r"[a-z0-9]+", base_name(name.lower()).replace("io_u", "iou"))
    known = [word for word in words if word in LOWER_IS_BETTER or word in HIGHER_IS_BETTER]
    return known[-1] in HIGHER_IS_BETTER if known else None


@dataclass(frozen=True)
class Monitor:
    """The metric that summaries rank by: `training.monitor` and `training.monitor_mode`.

    Attributes:
        name: The metric.
        mode: "min" or "max"; None: its name says whether higher is better.
    """

    name: str = MONITOR
    mode: str | None = None

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> Self:
        """Return the monitor of a recorded configuration's `training`."""
        return cls(str(training.get("monitor", MONITOR)), training.get("monitor_mode"))

    def higher_is_better(self, metric: str) -> bool | None:
        """Return whether higher values of any metric are better. None: neither its name nor the mode says it."""
        if self.mode is not None and base_name(metric) == base_name(self.name):
            return self.mode == "max"
        return higher_is_better(metric)

    def check(self) -> None:
        """Check that the metric can rank runs.

        Raises:
            ConfigError: It is of the test split, or nothing says whether higher is better.
        """
        if self.name.startswith(TEST):
            raise ConfigError(
                "training.monitor", expected="a metric of training or validation", received=self.name,
                fix="monitor a validation metric: a test split that ranks runs is no test",
            )  # fmt: skip
        if self.higher_is_better(self.name) is None:
            raise ConfigError(
                "training.monitor_mode", expected=f"min or max, because the name {self.name} does not say which is "
                "better", received="null", fix="training.monitor_mode=max if higher values are better, else min",
            )  # fmt: skip


def order_names(names: Iterable[str], monitor: str) -> list[str]:
    """Return the names of metrics, each once: the monitored metric and the losses first, the test split's last."""
    once = dict.fromkeys(names)
    leading = dict.fromkeys((monitor, "val_loss", "loss"))
    first = [name for name in leading if name in once and not name.startswith(TEST)]
    rest = sorted((name for name in once if name not in first), key=lambda name: name.startswith(TEST))
    return [*first, *rest]


def table_names(names: Iterable[str], monitor: str) -> list[str]:
    """Return the metrics of a table: the monitored one, then those of validation, or of training if there are none."""
    ordered = [name for name in order_names(names, monitor) if not name.startswith(TEST)]
    validation = [name for name in ordered if name == monitor or name.startswith(VALIDATION)]
    return (validation if any(name.startswith(VALIDATION) for name in validation) else ordered)[:MAX_COLUMNS]


def held_out_names(names: Iterable[str]) -> list[str]:
    """Return the metrics of the test split."""
    return [name for name in dict.fromkeys(names) if name.startswith(TEST)][:MAX_COLUMNS]
