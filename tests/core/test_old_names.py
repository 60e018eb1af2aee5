"""Old imports get the new one as advice."""

import pytest

from samebits.core import old_names
from samebits.core.old_names import import_advice, old_imports


def missing(name: str, module: str) -> ImportError:
    """Return Python's error for a name that a module does not have."""
    return ImportError(f"cannot import name '{name}' from '{module}' (/a/path.py)", name=module)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ModuleNotFoundError("no module", name="samebits.errors"), "from samebits.core.errors import …"),
        (ModuleNotFoundError("no module", name="samebits.nothing"), None),
        (missing("nothing", "samebits.portable.layers"), None),
        (missing("BatchNormalization", "samebits.portable.layers"), "from keras.layers import BatchNormalization"),
        (missing("l2_normalize", "samebits.portable.layers"), "from keras.ops import normalize"),
        (missing("RMSprop", "samebits.portable.optimizers"), "from keras.optimizers import RMSprop"),
    ],
)
def test_a_failed_import_says_what_to_write(error: ImportError, advice: str | None) -> None:
    """A moved module and a name that is Keras's own now have an advice; what never was in samebits has none."""
    said = import_advice(error)

    assert said is None if advice is None else f"write `{advice}` instead of" in str(said)


def test_the_error_of_python_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The advice comes from the error that a real import raises."""
    monkeypatch.setitem(old_names.MOVED, "samebits.core.gelu", "keras.activations.gelu")
    with pytest.raises(ImportError) as caught:
        from samebits.core import gelu  # type: ignore[attr-defined]  # noqa: F401

    assert import_advice(caught.value) == (
        "write `from keras.activations import gelu` instead of `from samebits.core import gelu`"
    )


def test_old_imports_are_found_in_a_text() -> None:
    """Modules and names are found with their lines."""
    text = "import samebits.seeds\nfrom samebits.portable.layers import LSTM, gelu\nfrom samebits import Seed\n"

    assert [(1, "samebits.seeds"), (2, "samebits.portable.layers.gelu")] == list(old_imports(text))
