"""The CNN-LSTM of the Keras example imdb_cnn_lstm: a Keras model that outputs a logit."""

import keras

from samebits import Seed
from samebits.core.errors import ConfigError
from samebits.portable.layers import LSTM, Dropout, Orthogonal


def _check(name: str, value: object, *, holds: bool, expected: str) -> None:
    if isinstance(value, bool) or not holds:
        raise ConfigError(f"model.{name}", expected=expected, received=repr(value), fix="choose a value in that range")


def check_arguments(sizes: dict[str, int], dropout_rate: float) -> None:
    """Check the sizes and the dropout rate of the model.

    Raises:
        ConfigError: One is out of range. The message has the argument.
    """
    for name, value in sizes.items():
        _check(name, value, holds=isinstance(value, int) and value >= 1, expected="an integer of at least 1")
    is_rate = isinstance(dropout_rate, int | float) and 0 <= dropout_rate < 1
    _check("dropout_rate", dropout_rate, holds=is_rate, expected="a number of at least 0 and below 1")
    kernel_size = sizes["kernel_size"]
    pooled = (sizes["sequence_length"] - kernel_size + 1) // sizes["pool_size"]
    _check(
        "kernel_size", kernel_size, holds=pooled >= 1, expected="kernel_size + pool_size - 1 <= data.sequence_length"
    )


def build_model(
    seed: Seed,
    *,
    num_words: int,
    sequence_length: int,
    embedding_dim: int,
    dropout_rate: float,
    filters: int,
    kernel_size: int,
    pool_size: int,
    units: int,
) -> keras.Model:
    """Return the model: embedding, dropout, convolution, max pooling, LSTM, one logit.

    Args:
        seed: Returns the seed of a point below `model/`, e.g. seed("conv/kernel").
        num_words: Size of the vocabulary.
        sequence_length: Word indices per review.
        embedding_dim: Size of a word's embedding.
        dropout_rate: Share of the embedding that is dropped during training, 0 <= rate < 1.
        filters: Output channels of the convolution.
        kernel_size: Words per filter.
        pool_size: Size of the pooling window.
        units: Size of the LSTM state.

    Returns:
        A model from int32[rows, sequence_length] to float32[rows, 1], the logit of "positive".

    Raises:
        ConfigError: An argument is out of range.

    Source: Keras's example imdb_cnn_lstm.
    """
    sizes = {
        "num_words": num_words, "sequence_length": sequence_length, "embedding_dim": embedding_dim, "filters": filters,
        "kernel_size": kernel_size, "pool_size": pool_size, "units": units,
    }  # fmt: skip
    check_arguments(sizes, dropout_rate)
    glorot, uniform = keras.initializers.GlorotUniform, keras.initializers.RandomUniform
    embeddings = uniform(seed=seed("embedding/embeddings"))
    layers = [
        keras.Input((sequence_length,), dtype="int32"),
        keras.layers.Embedding(num_words, embedding_dim, embeddings_initializer=embeddings, name="embedding"),
        Dropout(dropout_rate, seed=seed("embedding_dropout/dropout"), name="embedding_dropout"),
        keras.layers.Conv1D(
            filters, kernel_size, activation="relu", kernel_initializer=glorot(seed=seed("conv/kernel")), name="conv"
        ),
        keras.layers.MaxPooling1D(pool_size, name="pool"),
        LSTM(
            units,
            kernel_initializer=glorot(seed=seed("lstm/kernel")),
            recurrent_initializer=Orthogonal(seed=seed("lstm/recurrent")),
            name="lstm",
        ),
        keras.layers.Dense(1, kernel_initializer=glorot(seed=seed("output/kernel")), name="output"),
    ]
    return keras.Sequential(layers, name="imdb_cnn_lstm")
