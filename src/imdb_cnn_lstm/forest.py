"""A random forest: a second model for the reviews, whose algorithm is itself random."""

from collections.abc import Callable

from sklearn.ensemble import RandomForestClassifier

from samebits.core.errors import ConfigError


def build_forest(
    seed: Callable[[str], int | None], *, trees: int, max_depth: int | None, min_samples_leaf: int
) -> RandomForestClassifier:
    """Return the unfitted forest.

    Args:
        seed: Returns the seed of a point, here seed("algorithm/forest").
        trees: Number of trees.
        max_depth: Maximum depth of a tree; None: no limit.
        min_samples_leaf: Minimum number of samples in a leaf.

    Raises:
        ConfigError: An argument is out of range.
    """
    for name, value in {"trees": trees, "max_depth": max_depth, "min_samples_leaf": min_samples_leaf}.items():
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not is_count and not (name == "max_depth" and value is None):
            expected = "an integer of at least 1" + (", or null" if name == "max_depth" else "")
            raise ConfigError(f"model.{name}", expected=expected, received=repr(value), fix="choose an allowed value")
    return RandomForestClassifier(
        n_estimators=trees,
        max_depth=max_depth,
        min_samples_leaf=min_samples_leaf,
        random_state=seed("algorithm/forest"),
    )
