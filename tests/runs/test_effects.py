"""`effect_of` defines what can change bits, for the identity, explain and the report."""

from typing import Any

import pytest

from samebits.core.config import Config, flatten, to_dict
from samebits.runs.effects import CHANGES, DOES_NOT, MAY, OWN, WITHOUT_EFFECT, effect_of, is_below, machine_items
from samebits.runs.identity import identity


@pytest.mark.parametrize(
    ("item", "effect"),
    [
        ("config training.epochs", CHANGES),
        ("config training.log_every", DOES_NOT),
        ("config tracker.tags", DOES_NOT),
        ("config tracker_of_mine", CHANGES),
        ("config runtime.arithmetic_rewrites", MAY),
        ("config runtime.intra_op_threads", CHANGES),
        ("config name", DOES_NOT),
        ("seed data/order", CHANGES),
        ("seed numpy/global", MAY),
        ("code samebits/train/loop.py", MAY),
        ("lock requirements.lock", MAY),
        ("data train/inputs", CHANGES),
        ("package numpy", MAY),
        ("package rich", OWN),
        ("cpu model", MAY),
        ("git commit", DOES_NOT),
        ("machine python", MAY),
        ("machine system", DOES_NOT),
        ("setting environment.PYTHONHASHSEED", DOES_NOT),
        ("setting openblas", MAY),
    ],
)
def test_an_input_has_one_effect(item: str, effect: str) -> None:
    """The effect of an item depends on its kind and its name."""
    assert effect == effect_of(item)


def test_the_kind_of_cpu_has_no_effect_under_portable() -> None:
    """The CPU may change bits if any run used another promise."""
    assert DOES_NOT == effect_of("cpu flags", portable=True)
    assert MAY == effect_of("cpu flags")


@pytest.mark.parametrize(
    ("item", "values", "effect"),
    [
        ("machine libc", ("glibc 2.36", "glibc 2.41"), DOES_NOT),
        ("machine libc", ("glibc 2.36", "glibc 2.31"), MAY),
        ("machine libc", ("glibc 2.36", "glibc 2.4"), MAY),
        ("machine python", ("3.11.2", "3.13.7"), DOES_NOT),
        ("machine python", ("3.11.2", "3.14.0"), MAY),
        ("machine python", ("3.11.2", "absent"), MAY),
        ("config runtime.inter_op_threads", (4, 1), DOES_NOT),
        ("setting inter_op_threads", (4, 1), DOES_NOT),
        ("config runtime.intra_op_threads", (4, 1), CHANGES),
    ],
)
def test_what_was_measured_equal_has_no_effect_under_portable(item: str, values: tuple[Any, ...], effect: str) -> None:
    """Compared versions and inter-op threads have no effect under portable, and may have one under other promises."""
    assert effect == effect_of(item, values, portable=True)
    assert DOES_NOT != effect_of(item, values)


def test_the_identity_has_every_key_but_those_without_effect() -> None:
    """A key is in the identity, or has no effect on bits. The name of the run is both."""
    every, named = set(flatten(to_dict(Config()))), set(flatten(identity(Config())))

    assert {key for key in every if is_below(key, WITHOUT_EFFECT)} - {"name"} == every - named


def test_every_fact_of_a_machine_is_an_item() -> None:
    """Packages, settings, CPU, git and other facts become items with their kind."""
    machine = {
        "packages": {"numpy": "2"}, "arithmetic": {"settings": {"jit": "off"}}, "cpu": {"model": "m"},
        "git": {"commit": "c"}, "python": "3.11",
    }  # fmt: skip
    items = machine_items(machine)

    expected = {"package numpy": "2", "setting jit": "off", "cpu model": "m", "git commit": "c"}
    assert expected | {"machine python": "3.11"} == {item: value for item, value in items.items() if value}
