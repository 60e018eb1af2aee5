"""Overrides that Hydra cannot read: the error shows the place, and what to type in a shell and with make."""

import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from samebits import compose
from samebits.core.errors import ConfigError

UNREAD = {
    "data.path=a=b": "received '=' as character 12",
    "name=a&b": "received '&' as character 7",
    "name=a;b": "received ';' as character 7",
    "name=a#b": "received '#' as character 7",
    "tags=[a": "received '[' as character 6",
    "name=a]": "received ']' as character 7",
    "x={": "received '{' as character 3",
    "name=(a": "received '(' as character 6",
    "name=ü": "received 'ü' as character 6",
    "name=日本": "received '日' as character 6",
    "name=it's": 'received "\'" as character 8',
    'name="a"b': "received 'b' as character 9",
    "name=a$b&`c`\\d": "received '&' as character 9",
    "name=two  spaces & more": "received '&' as character 18",
    "name=wow!&": "received '!' as character 9",
}
NO_KEY = {
    "": "received no =",
    " ": "received ' ' as character 1",
    "foo": "received no =",
    "=5": "received no key before the =",
    "naïve=1": "received 'ï' as character 3",
    "a b=c": "received ' ' as character 2",
}
SEVERAL = ["training.epochs=1,2", "name=a,b", "training.epochs=range(1,3)", "name=choice(a,b)"]
PLAIN = ["name=a", "name=a b", "name=a ", "data.path=C:\\x", "training.epochs=1 ", "name='a=b'", "tracker.tags=[a,b]"]


def error_of(override: str) -> str:
    """Return the error message of an override."""
    with pytest.raises(ConfigError) as caught:
        compose.compose(ROOT, ["experiment=smoke", override])
    return str(caught.value)


def advised_words(message: str) -> tuple[str, str]:
    """Return the advice in a message for a shell and for make."""
    (words,) = re.findall(r"to pass text, type (.*), or with make (OVERRIDES=.*?)(?:; a list has .*)?$", message)
    return tuple(words)


def shell_reads(word: str) -> str:
    """Return the word that bash reads from a text."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {word}"], capture_output=True, check=True)
    (read,) = done.stdout.decode().split("\0")[:-1]
    return read


def make_reads(words: str, folder: pathlib.Path) -> str:
    """Return the word that a recipe reads from OVERRIDES, passed by bash to make."""
    (folder / "Makefile").write_text("all:\n\t@printf '%s\\0' $(OVERRIDES)\n")
    done = subprocess.run(["bash", "-c", f"make -s {words}"], cwd=folder, capture_output=True, check=True)
    (read,) = done.stdout.decode().split("\0")[:-1]
    return read


@pytest.mark.parametrize("override", UNREAD)
def test_an_unread_override_is_shown_with_what_to_type(override: str, tmp_path: pathlib.Path) -> None:
    """The advice passes the exact text to Hydra, through a shell and through make."""
    message = error_of(override)
    shell, through_make = advised_words(message)
    read = compose.parse_override(shell_reads(shell))

    assert f"override {override!r}: expected key=value" in message
    assert UNREAD[override] in message
    assert read is not None
    assert override.partition("=")[2] == read.value()
    assert shell_reads(shell) == make_reads(through_make, tmp_path)


@pytest.mark.parametrize("override", NO_KEY)
def test_an_override_without_a_usable_key_is_shown(override: str) -> None:
    """Quotes would not help, so the error does not advise them."""
    message = error_of(override)

    assert NO_KEY[override] in message
    assert "make OVERRIDES" not in message
    assert "\n" not in message


@pytest.mark.parametrize("override", SEVERAL)
def test_several_values_are_shown_with_the_three_ways(override: str, tmp_path: pathlib.Path) -> None:
    """The advice is one run per value, a list if possible, or text."""
    message = error_of(override)
    shell, through_make = advised_words(message)

    assert f"override {override!r}: expected one value, received several" in message
    assert f"samebits train --multirun '{override}'" in message
    assert ("(" not in override) == ("to pass a list, type " in message)
    assert shell_reads(shell) == make_reads(through_make, tmp_path)


@pytest.mark.parametrize("override", PLAIN)
def test_a_plain_override_is_read(override: str) -> None:
    """Values with spaces, quotes or a complete list are read without advice."""
    assert compose.parse_override(override) is not None


def test_an_unknown_option_lists_those_there_are() -> None:
    """The error keeps the useful lines of Hydra's message, without links."""
    message = error_of("data=imdb_revews")

    assert "Could not find 'data/imdb_revews'; Available options in 'data': " in message
    assert "; synthetic;" in message
    assert "://" not in message


def test_an_unknown_key_is_not_advised_to_be_added() -> None:
    """Hydra would advise +foo=1, which is an error in this project too."""
    message = error_of("foo=1")

    assert "Could not override 'foo'" in message
    assert "+foo" not in message


@settings(max_examples=60, deadline=None)
@given(value=st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=12))
def test_any_value_that_can_be_quoted_is_quoted_for_a_shell(value: str) -> None:
    """The quoted value is one word for bash and the same text for Hydra."""
    quoted = compose.quote_value(f"name={value}")
    if quoted is not None:
        read = compose.parse_override(shell_reads(compose.shell_word(quoted)))

        assert read is not None
        assert value == read.value()


def test_an_experiment_without_its_first_line_is_an_error_that_shows_the_line(tmp_path: pathlib.Path) -> None:
    """Hydra alone would say that the configuration has no key `experiment`."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text("training:\n  epochs: 3\n")

    with pytest.raises(ConfigError) as caught:
        compose.compose(tmp_path, ["experiment=mine"])
    assert "start conf/experiment/mine.yaml with the line # @package _global_" == caught.value.fix

    with pytest.raises(ConfigError) as caught:
        compose.compose(tmp_path, ["experiment=other"])
    assert "samebits train --help lists them" == caught.value.fix
