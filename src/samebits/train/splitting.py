"""Divides rows into training and validation rows: at random, by class, by group, by time. Copies rows of small classes.

Each function gets the generator of its seed point, and returns row numbers.
"""

import numpy as np

from samebits.core.errors import ConfigError, DataError

Rows = tuple[np.ndarray, np.ndarray]  # int64[train rows], int64[validation rows]


def class_numbers(labels: np.ndarray) -> np.ndarray | None:
    """Return the class of each row, or None if the labels are no classes.

    Labels of shape [rows, 1] are those of shape [rows]. Of labels [rows, labels], each combination is a class.
    Labels with fractions, with more different values than half of the rows, or with more axes, are no classes.

    Args:
        labels: [rows], [rows, labels] or more.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:  # noqa: PLR2004  rows and one column
        labels = labels[:, 0]
    if labels.ndim > 2 or (labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels))):  # noqa: PLR2004
        return None
    values, classes = np.unique(labels, axis=0 if labels.ndim > 1 else None, return_inverse=True)
    return None if len(values) > max(1, len(labels) / 2) else classes.reshape(-1)


def check_size(validation_size: int, rows: int, what: str = "samples") -> None:
    """Check that a split leaves rows on both sides.

    Raises:
        ConfigError: It does not.
    """
    if not 0 < validation_size < rows:
        raise ConfigError(
            "data.validation_size", expected=f"1 to {rows - 1} ({rows} {what} in total)", received=validation_size,
            fix="choose fewer validation samples",
        )  # fmt: skip


def stratified_split(labels: np.ndarray, validation_size: int, rng: np.random.Generator) -> Rows:
    """Return a stratified split: both parts have the same share of each label, to within one row.

    Args:
        labels: int[rows].
        validation_size: Exact number of validation rows.
        rng: The generator of the point `data/split`.

    Returns:
        (int64[train rows], int64[validation rows]), in random order.

    Raises:
        ConfigError: `validation_size` leaves no training row.
    """
    rows = len(labels)
    check_size(validation_size, rows)
    order = rng.permutation(rows)
    by_label = order[np.argsort(labels[order], kind="stable")]
    # Takes every k-th row of the rows sorted by label, so the share of each label is exact to within one row.
    position = (np.arange(validation_size) * rows) // validation_size
    is_validation = np.zeros(rows, dtype=bool)
    is_validation[by_label[position]] = True
    return order[~is_validation[order]], order[is_validation[order]]


def random_split(rows: int, validation_size: int, rng: np.random.Generator) -> Rows:
    """Return a random split with exactly `validation_size` validation rows, in random order.

    Raises:
        ConfigError: `validation_size` leaves no training row.
    """
    check_size(validation_size, rows)
    order = rng.permutation(rows)
    return order[validation_size:], order[:validation_size]


def group_split(groups: np.ndarray, validation_size: int, rng: np.random.Generator) -> Rows:
    """Return a split in which each group is on one side, with about `validation_size` validation rows.

    The groups are taken in random order, each if it fits. One more is taken if that is nearer to the size.

    Raises:
        ConfigError: There is one group, or `validation_size` leaves no training row.
    """
    check_size(validation_size, len(groups))
    number_of, sizes = number_groups(groups)
    left, chosen, passed = validation_size, [], []
    for group in rng.permutation(len(sizes)):
        if sizes[group] <= left:
            chosen.append(group)
            left -= sizes[group]
        else:
            passed.append(group)
    smallest = min(passed, key=lambda group: sizes[group])  # there is one, because the size is less than all rows
    if (sizes[smallest] - left < left and len(passed) > 1) or not chosen:
        chosen.append(smallest)
    order = rng.permutation(len(groups))
    is_validation = np.isin(number_of, chosen)[order]
    return order[~is_validation], order[is_validation]


def number_groups(groups: np.ndarray) -> Rows:
    """Return the number of each row's group, and the number of rows of each group.

    Raises:
        DataError: There is only one group.
    """
    values, number_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(values) < 2:  # noqa: PLR2004  one for each side
        raise DataError(
            "the groups of context.split", expected="at least two groups", received=f"{len(values)}",
            fix="pass the group of each row, e.g. groups=patients",
        )  # fmt: skip
    return number_of.reshape(-1), sizes


def time_split(time: np.ndarray, validation_size: int) -> Rows:
    """Return a split whose validation rows are the last ones. Both parts are in the order of time.

    Raises:
        ConfigError: `validation_size` leaves no training row.
    """
    check_size(validation_size, len(time))
    order = np.argsort(time, kind="stable")
    return order[:-validation_size], order[-validation_size:]


def make_fold(
    rows: int, folds: int, fold: int, rng: np.random.Generator, classes: np.ndarray | None, groups: np.ndarray | None
) -> Rows:
    """Return the rows of one fold, in random order: stratified by class, or with each group on one side.

    Shuffled here, with the generator of the point; scikit-learn only cuts. As many folds as rows is leave-one-out.

    Raises:
        ConfigError: There are too few rows in each class, too few groups, or too few rows.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold  # noqa: PLC0415  slow to import

    order = rng.permutation(rows)
    if groups is not None:
        number_of, sizes = number_groups(groups)
        _check_folds(folds, len(sizes), "the number of groups")
        renamed = rng.permutation(len(sizes))[number_of]  # groups of equal size are in a random order
        parts = GroupKFold(folds).split(order, groups=renamed[order])
    elif classes is None or folds == rows:
        _check_folds(folds, rows, "the number of samples")
        parts = KFold(folds).split(order)
    else:
        largest = int(np.bincount(classes).max())
        _check_folds(folds, largest, f"the size of the largest class, or {rows} for leave-one-out")
        parts = StratifiedKFold(folds).split(order, classes[order])
    train, validation = list(parts)[fold]
    return order[train], order[validation]


def time_fold(time: np.ndarray, folds: int, fold: int) -> Rows:
    """Return the rows of one fold: it trains on the rows before its validation rows (scikit-learn's TimeSeriesSplit).

    Raises:
        ConfigError: There are too few rows.
    """
    from sklearn.model_selection import TimeSeriesSplit  # noqa: PLC0415  slow to import

    _check_folds(folds, len(time) - 1, "the number of samples less one")
    order = np.argsort(time, kind="stable")
    train, validation = list(TimeSeriesSplit(folds).split(order))[fold]
    return order[train], order[validation]


def _check_folds(folds: int, most: int, because: str) -> None:
    if folds > most:
        raise ConfigError("data.folds", expected=f"at most {most}, {because}", received=folds, fix="choose fewer folds")


def oversample(train: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the training rows plus random copies of the smaller classes, so that all classes have the same size.

    Args:
        train: int64[train rows].
        labels: int[rows] of all rows.
        rng: The generator of the point `data/oversample`.

    Raises:
        ConfigError: The labels are no classes.
    """
    found = class_numbers(labels)
    if found is None:
        raise ConfigError(
            "data.oversample", expected="labels that are classes", received="other labels", fix="set it to false"
        )
    classes, counts = np.unique(found[train], return_counts=True)
    extra = []
    for label, count in zip(classes, counts, strict=True):
        members = train[found[train] == label]
        extra.append(members[rng.integers(0, count, counts.max() - count)])
    return np.concatenate([train, *extra])
