"""Operations that are not portable raise an error before training; with exact operations, stock Keras does not."""

import pathlib
import re
import types
from typing import Any

import pytest
from conftest import TrainHere

from samebits.core.errors import NotPortableError
from samebits.core.short_names import OPTIMIZERS

NORMALISATIONS = ("BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization",
                  "UnitNormalization")  # fmt: skip


def decompose(x: Any) -> Any:
    """Return x, changed by a decomposition: what has no exact version."""
    import keras

    return x + keras.ops.mean(keras.ops.stop_gradient(keras.ops.qr(x)[0]))


def find(layer: Any, loss: Any = "mse", optimizer: Any = "adam") -> list[Any]:
    """Return the findings in a model with one layer and a head, its loss and its optimizer."""
    import keras
    import tensorflow as tf

    from samebits.portable import graph_check
    from samebits.train.draws import graph_nodes

    model = keras.Sequential([keras.Input((4, 4, 8)), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(optimizer, loss, jit_compile=False)
    batch = tf.zeros((6, 4, 4, 8)), tf.zeros((6, 1))
    model.optimizer.build(model.trainable_variables)
    traced: Any = tf.function(model.train_step)
    scopes = graph_check.scopes_of("mine.loss", [model.optimizer])
    return list(graph_check.inexact_operations(graph_nodes(traced.get_concrete_function(batch)), model, scopes))


@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_keras_normalisations_pass(kind: str, request: pytest.FixtureRequest) -> None:
    """With exact operations Keras's layer passes; without them, the error names the layer and its class."""
    import keras

    options = {"groups": 2} if kind == "GroupNormalization" else {}
    found = find(getattr(keras.layers, kind)(name="norm", **options))
    request.getfixturevalue("exact_operations")

    assert {f"layer norm ({kind})"} == {each.owner for each in found}
    assert [] == find(getattr(keras.layers, kind)(name="norm", **options))


def test_a_decomposition_in_a_layer_is_found(exact_operations: None) -> None:
    """The error names the operation and the layer whose activation uses it."""
    import keras

    found = find(keras.layers.Dense(8, activation=decompose, name="hidden"))

    assert [("layer hidden (Dense)", "Qr")] == [(each.owner, each.what) for each in found]


def test_a_grouped_convolution_is_found(exact_operations: None) -> None:
    """A grouped convolution is refused because Keras compiles it with XLA; other convolutions, also depthwise, pass."""
    import keras

    found = find(keras.layers.Conv2D(6, 2, groups=2, name="grouped"))

    assert {("layer grouped (Conv2D)", "XLA")} == {(each.owner, each.what) for each in found}
    assert [] == find(keras.layers.Conv2D(6, 2)) == find(keras.layers.DepthwiseConv2D(2))


def test_a_layer_inside_another_is_named(exact_operations: None) -> None:
    """In nested layers, the innermost layer with the operation is named."""
    import keras

    inner = [keras.layers.Dense(8), keras.layers.Activation(decompose, name="inner_qr")]
    found = find(keras.Sequential(inner, name="inner"))

    assert {"layer inner_qr (Activation)"} == {each.owner for each in found}


def test_a_decomposition_in_a_loop_is_found(exact_operations: None) -> None:
    """An operation inside a recurrent layer's loop is found."""
    import keras

    @keras.saving.register_keras_serializable("tests")
    class Cell(keras.layers.SimpleRNNCell):
        def call(self, sequence: Any, states: Any, training: bool = False) -> Any:
            output, states = super().call(sequence, states, training=training)
            return decompose(output), states

    cell = Cell(5, recurrent_initializer="glorot_uniform")
    found = find(keras.Sequential([keras.layers.Reshape((16, 8)), keras.layers.RNN(cell, name="loop")]))

    assert "Qr" in [each.what for each in found]


def test_a_loss_is_found(exact_operations: None) -> None:
    """The error names the loss as the configuration does; Keras's own losses pass."""
    import keras

    found = find(keras.layers.Dense(8), loss=lambda labels, outputs: decompose(labels - outputs) ** 2)

    assert {("loss mine.loss", "Qr")} == {(each.owner, each.what) for each in found}
    assert [] == find(keras.layers.Dense(8), loss=keras.losses.BinaryCrossentropy(from_logits=True))


def test_an_optimizer_is_found(exact_operations: None) -> None:
    """The error names an optimizer that decomposes its gradients, as the configuration does."""
    import keras

    class Inexact(keras.optimizers.SGD):
        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            changed = decompose(gradient) if len(gradient.shape) == 2 else gradient
            super().update_step(changed, variable, learning_rate)

    found = find(keras.layers.Dense(8), optimizer=Inexact())

    assert {("optimizer Inexact", "Qr")} == {(each.owner, each.what) for each in found}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizers_of_the_configuration_pass(optimizer: str, exact_operations: None) -> None:
    """Portable models have no findings."""
    import keras

    from samebits.train.compiling import make_named

    made = make_named("training.optimizer", optimizer, OPTIMIZERS)
    assert [] == find(keras.layers.Dense(8), optimizer=made)


def test_an_exact_operation_that_comes_in_another_way_is_found(exact_operations: None) -> None:
    """A graph that was saved brings its own operations, and a large matrix has no exact inverse."""
    import keras
    from tensorflow.python.framework import op_def_library

    def root(x: Any) -> Any:
        created = op_def_library._apply_op_helper("Rsqrt", x=keras.ops.abs(x) + 1)[3][0]
        return x + keras.ops.stop_gradient(created)

    def inverse(x: Any) -> Any:
        return x + keras.ops.sum(keras.ops.stop_gradient(keras.ops.inv(keras.ops.eye(9) + keras.ops.mean(x))))

    for function, operation, advice in ((root, "Rsqrt", "not a saved graph"), (inverse, "MatrixInverse", "8 rows")):
        found = [each for each in find(keras.layers.Dense(8, activation=function)) if each.what == operation]

        assert found
        assert all(advice in each.instead for each in found)


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


def test_a_run_with_keras_batch_normalization_and_gelu(project: pathlib.Path, train_here: TrainHere) -> None:
    """Keras's own layers train under portable."""
    done = train_here(project, "model._target_=faults.model.normalize", "training.epochs=1")

    assert 0 == done.returncode, done.stderr


@pytest.mark.full
def test_a_run_with_a_decomposition(project: pathlib.Path, train_here: TrainHere) -> None:
    """It is refused under portable in one line and leaves no files; under machine it trains."""
    words = ("model._target_=faults.model.decompose", "training.epochs=1")
    refused = train_here(project, *words)

    assert 2 == refused.returncode
    assert 1 == len(refused.stderr.strip().splitlines())
    assert "layer decomposition (Activation) uses Qr" in refused.stderr
    assert "use a result that is computed once and stored with the data for layer decomposition" in refused.stderr
    assert [] == list((project / "runs" / "smoke").glob("*/[0-9]*"))
    assert 0 == train_here(project, *words, "runtime=machine").returncode


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.loss=keras.losses.Nothing", "training.loss: expected .*received keras.losses.Nothing"),
        ("training.optimizer=keras.optimizers.Nothing", "training.optimizer: expected .*fix: fix the typo"),
        ("training.loss=os.path.join", "training.loss: expected a function in a package of your own below src/"),
        (
            "training.loss=entropy",
            "training.loss: expected a name that keras.losses.get knows, package.module.name or ",
        ),
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


def test_a_copy_needs_no_measurement() -> None:
    """Operations that only check or copy values give no warning; one that computes does."""
    from samebits.portable import graph_check

    nodes = [types.SimpleNamespace(op=name, input=["x"]) for name in ("Assert", "PlaceholderWithDefault", "Asinh")]

    assert ["Asinh"] == graph_check.unmeasured_operations(nodes)


def test_an_unmeasured_operation_is_said(project: pathlib.Path, train_here: TrainHere) -> None:
    """An untested operation is not an error, but gives a warning and a line in the result."""
    done = train_here(project, "model._target_=faults.model.use_a_rare_operation", "training.epochs=1")

    assert 0 == done.returncode, done.stderr
    assert "portable was never tested with these operations: Asinh" in done.stderr
    results = [path.read_text() for path in (project / "runs" / "smoke").glob("*/1/result.json")]
    assert '"Asinh"' in results[0]
