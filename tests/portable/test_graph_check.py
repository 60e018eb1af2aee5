"""Operations that are not portable raise an error before training; our replacements and all others do not."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, TrainHere

from samebits.core.errors import NotPortableError
from samebits.core.short_names import OPTIMIZERS

NORMALISATIONS = ("BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization",
                  "UnitNormalization")  # fmt: skip


def find(layer: Any, loss: str = "binary_crossentropy", optimizer: str = "adam") -> list[Any]:
    """Return the findings in a model with one layer and a head, its loss and its optimizer."""
    import keras

    from samebits.portable import graph_check
    from samebits.train import draws, steps
    from samebits.train.data import Split

    model = keras.Sequential([keras.Input((4, 4, 8)), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    rows = steps.find_loss(loss)
    data = Split(np.zeros((6, 4, 4, 8), np.float32), np.zeros(6, np.int32))
    made = steps.find_named("training.optimizer", optimizer, OPTIMIZERS)()
    traced: list[Any] = [
        steps.make_train_step(model, made, rows, data),
        steps.make_evaluation_step(model, rows, data),
    ]
    nodes = [node for step in traced for node in draws.graph_nodes(step.get_concrete_function())]
    operations = graph_check.inexact_operations(nodes, model, loss, optimizer)
    return [*graph_check.inexact_initializers(model), *operations]


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_keras_normalisations_are_found_and_ours_are_not(kind: str) -> None:
    """The error names the layer, its class and the replacement; the replacement passes."""
    import keras

    from samebits.portable import layers

    options = {"groups": 2} if kind == "GroupNormalization" else {}
    found = find(getattr(keras.layers, kind)(name="norm", **options))

    assert {(f"layer norm ({kind})", f"samebits.portable.layers.{kind}")} == {
        (each.owner, each.instead) for each in found
    }
    assert [] == find(getattr(layers, kind)(name="norm", **options))


@pytest.mark.parametrize(
    ("activation", "operation", "instead"),
    [
        ("gelu", "Erfc", "samebits.portable.layers.gelu"),
        ("rsqrt", "Rsqrt", "samebits.portable.layers.rsqrt"),
        ("log1p", "Reciprocal", "samebits.portable.layers.log"),
        ("arctan", "Atan", "samebits.portable.layers.atan"),
    ],
)
def test_an_inexact_function_in_a_layer_is_found(activation: str, operation: str, instead: str) -> None:
    """The error names the operation and the layer whose activation uses it, also if only the gradient does."""
    import keras

    functions = {"gelu": lambda x: keras.activations.gelu(x, approximate=False)}
    function = functions.get(activation) or getattr(keras.ops, activation)
    found = find(keras.layers.Dense(8, activation=function, name="hidden"))

    assert operation in [each.what for each in found]
    assert {"layer hidden (Dense)"} == {each.owner for each in found}
    assert all(instead in each.instead for each in found if each.what == operation)


def test_a_grouped_convolution_is_found() -> None:
    """A grouped convolution is refused because Keras compiles it with XLA; other convolutions, also depthwise, pass."""
    import keras

    found = find(keras.layers.Conv2D(6, 2, groups=2, name="grouped"))

    assert {("layer grouped (Conv2D)", "XLA")} == {(each.owner, each.what) for each in found}
    assert [] == find(keras.layers.Conv2D(6, 2)) == find(keras.layers.DepthwiseConv2D(2))


def test_a_layer_inside_another_is_named() -> None:
    """In nested layers, the innermost layer with the operation is named."""
    import keras

    inner = keras.Sequential([keras.layers.Dense(8), keras.layers.LayerNormalization(name="inner_norm")], name="inner")
    found = find(inner)

    assert {"layer inner_norm (LayerNormalization)"} == {each.owner for each in found}


def test_a_normalisation_in_a_loop_is_found() -> None:
    """An operation inside a recurrent layer's loop is found."""
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Cell(keras.layers.SimpleRNNCell):
        def call(self, sequence: Any, states: Any, training: bool = False) -> Any:
            output, states = super().call(sequence, states, training=training)
            return keras.ops.normalize(output), states

    cell = Cell(5, recurrent_initializer="glorot_uniform")
    found = find(keras.Sequential([keras.layers.Reshape((16, 8)), keras.layers.RNN(cell, name="loop")]))

    assert "Rsqrt" in [each.what for each in found]


def test_keras_orthogonal_is_found() -> None:
    """Keras's orthogonal initializer, the default of recurrent layers, is named with the cell; ours passes."""
    import keras

    from samebits.portable import layers

    def recurrent(**options: Any) -> Any:
        return keras.Sequential([keras.layers.Reshape((16, 8)), keras.layers.LSTM(3, name="memory", **options)])

    found = find(recurrent())

    assert ["samebits.portable.layers.Orthogonal"] == list({each.instead for each in found})
    assert [] == find(recurrent(recurrent_initializer=layers.Orthogonal(seed=1)))


@pytest.mark.parametrize("loss", ["keras.losses.BinaryCrossentropy", "keras.losses.binary_crossentropy"])
def test_keras_loss_is_found(loss: str) -> None:
    """The error names the loss as the configuration does."""
    import keras

    found = find(keras.layers.Dense(8), loss=loss)

    assert {f"loss {loss}"} == {each.owner for each in found}
    assert {"Reciprocal"} == {each.what for each in found}


def test_an_optimizer_is_found() -> None:
    """The error names an optimizer that divides by an approximate root, as the configuration does."""
    import keras

    from samebits.portable.graph_check import inexact_operations

    class Inexact(keras.optimizers.SGD):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            super().update_step(gradient * keras.ops.rsqrt(keras.ops.abs(gradient) + 1), variable, learning_rate)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    nodes = step_nodes(model, Inexact())
    found = list(inexact_operations(nodes, model, "a loss", "mine.Inexact"))

    assert {"optimizer mine.Inexact"} == {each.owner for each in found}
    assert {"Rsqrt"} == {each.what for each in found}


def step_nodes(model: Any, optimizer: Any) -> list[Any]:
    """Return the nodes of a model's traced step."""
    from samebits.train import draws, steps
    from samebits.train.data import Split

    data = Split(np.zeros((6, 3), np.float32), np.zeros(6, np.int32))
    step: Any = steps.make_train_step(model, optimizer, steps.find_loss("binary_crossentropy"), data)
    return draws.graph_nodes(step.get_concrete_function())


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "sgd"])
def test_the_optimizers_of_the_configuration_pass(optimizer: str) -> None:
    """Portable models have no findings."""
    import keras

    assert [] == find(keras.layers.Dense(8), optimizer=optimizer)


def test_float64_is_exact() -> None:
    """A reciprocal root in float64 passes, because float64 has no approximate instructions."""
    import keras

    def root(x: Any) -> Any:
        return keras.ops.cast(keras.ops.rsqrt(keras.ops.cast(keras.ops.abs(x) + 1, "float64")), "float32")

    assert [] == find(keras.layers.Dense(8, activation=root))


def test_the_message_names_everything() -> None:
    """One line lists all findings, what to use instead, and the other runtime."""
    from samebits.portable.graph_check import Finding, check_portable

    check_portable([])
    with pytest.raises(NotPortableError) as caught:
        check_portable([Finding("layer a (A)", "Rsqrt", "why", "B"), Finding("loss c", "Reciprocal", "why", "D")] * 2)

    assert 2 == caught.value.exit_code
    assert 1 == str(caught.value).count("layer a (A) uses Rsqrt")
    for part in ("loss c uses Reciprocal", "B for layer a (A)", "D for loss c", "runtime=machine"):
        assert part in str(caught.value)


# --- whole runs ---


def plant(project: pathlib.Path, before: str, after: str) -> None:
    """Change the example's model."""
    path = project / "src" / PACKAGE / "model.py"
    text = path.read_text()

    assert before in text
    path.write_text(text.replace(before, after, 1))


POOL = 'keras.layers.MaxPooling1D(pool_size, name="pool"),'


@pytest.mark.full
def test_a_run_with_batch_normalization(project: pathlib.Path, train_here: TrainHere) -> None:
    """Keras's layer is refused under portable and leaves no files; under machine, and with our layer, it trains."""
    plant(project, POOL, f'keras.layers.BatchNormalization(name="norm"), {POOL}')
    refused = train_here(project)

    assert 2 == refused.returncode
    assert 1 == len(refused.stderr.strip().splitlines())
    assert "layer norm (BatchNormalization) uses Rsqrt" in refused.stderr
    assert "use samebits.portable.layers.BatchNormalization for layer norm" in refused.stderr
    assert [] == list((project / "runs" / "smoke").glob("*/[0-9]*"))
    assert 0 == train_here(project, "runtime=machine", "training.epochs=1").returncode

    plant(project, "keras.layers.BatchNormalization", "samebits.portable.layers.BatchNormalization")
    plant(project, "import keras\n", "import keras\n\nimport samebits.portable.layers\n")
    done = train_here(project, "training.epochs=1")

    assert 0 == done.returncode, done.stderr


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.loss=keras.losses.BinaryCrossentropy",
            "loss keras.losses.BinaryCrossentropy uses Reciprocal.*use samebits.portable.layers.BinaryCrossentropy",
        ),
        ("training.loss=keras.losses.Nothing", "training.loss: expected .*received keras.losses.Nothing"),
        ("training.optimizer=keras.optimizers.Nothing", "training.optimizer: expected .*fix: fix the typo"),
        ("training.loss=os.path.join", "training.loss: expected a function in a package of your own below src/"),
        ("training.loss=mse", "training.loss: expected binary_crossentropy, sparse_categorical_crossentropy or "),
    ],
)
def test_a_loss_or_optimizer_that_will_not_do(
    project: pathlib.Path, override: str, said: str, train_here: TrainHere
) -> None:
    """It is refused with one line and exit code 2, and leaves no files."""
    done = train_here(project, override)

    assert 2 == done.returncode
    assert re.search(said, done.stderr), done.stderr
    assert [] == list((project / "runs" / "smoke").glob("*/[0-9]*"))


@pytest.mark.full
def test_a_loss_of_ones_own(project: pathlib.Path, train_here: TrainHere) -> None:
    """A function in a package in src/ can be the loss, and its file changes the run's name; Keras's optimizer works."""
    package = project / "src" / "mine"
    package.mkdir()
    (package / "__init__.py").write_text('"""Mine."""\n')
    code = '"""Mine."""\n\n\ndef squares(labels, outputs):\n    return (labels - outputs)[:, 0] ** 2\n'
    (package / "losses.py").write_text(code)
    overrides = ("training.loss=mine.losses.squares", "training.optimizer=keras.optimizers.AdamW", "training.epochs=1")
    first = train_here(project, *overrides)
    second = train_here(project, *overrides)
    (package / "losses.py").write_text(code.replace("** 2", "** 4"))
    third = train_here(project, *overrides)

    assert [0, 0, 0] == [done.returncode for done in (first, second, third)], first.stderr
    assert "same bits as 1 earlier run" in second.stdout
    assert "first run with these inputs" in third.stdout


def test_an_unmeasured_operation_is_said(project: pathlib.Path, train_here: TrainHere) -> None:
    """An untested operation is not an error, but gives a warning and a line in the result."""
    plant(project, POOL, f"keras.layers.Activation(keras.ops.arcsinh), {POOL}")
    done = train_here(project, "training.epochs=1")

    assert 0 == done.returncode, done.stderr
    assert "portable was never tested with these operations: Asinh" in done.stderr
    results = [path.read_text() for path in (project / "runs" / "smoke").glob("*/1/result.json")]
    assert '"Asinh"' in results[0]
