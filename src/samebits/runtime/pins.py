"""Fixes the settings of a training process, and checks that they are in effect.

Some must be set before Python starts (`child_environment`), the others after TensorFlow is imported (`apply_pins`).
`check_pins` then compares every setting with its effective value. Must not read other parts of the configuration.
Imports TensorFlow only inside functions.
"""

import atexit
import contextlib
import os
import platform
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from samebits.core.config import RuntimeConfig
from samebits.core.digest import bytes_digest
from samebits.core.errors import MachineError, RuntimePinError
from samebits.core.seeds import Seeds
from samebits.runtime.machine import usable_cores

# Variables that change arithmetic, threads or imports of the child. They are removed unless a pin sets them.
SCRUBBED_PREFIXES = (
    "TF_", "ONEDNN_", "DNNL_", "XLA_", "KERAS_", "NPY_", "OPENBLAS_", "GOTO_", "MKL_", "BLIS_", "OMP_", "KMP_",
    "GOMP_", "VECLIB_", "NUMEXPR_", "PYTHON", "GLIBC_TUNABLES", "LD_PRELOAD", "CUDA_", "NVIDIA_TF32", "COMET_",
)  # fmt: skip
KEPT = ("KERAS_HOME",)  # a data folder
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
# The features above AVX2 that NumPy 2.4 and 2.5 dispatch to. The older names of these features have no effect.
NUMPY_ABOVE_AVX2 = "X86_V4 AVX512_ICL AVX512_SPR"
X86_64 = ("x86_64", "AMD64")
RANDOM_HASH_SEED = "random"
# Keras 3.15 imports these if installed, for its wrappers, galleries and file editor: 90 MB and over a second.
OPTIONAL_FOR_KERAS = ("IPython", "matplotlib", "sklearn")


def pinned_variables(runtime: RuntimeConfig, hash_seed: int | None) -> dict[str, str]:
    """Return the environment variables that a runtime level sets in the training process.

    Args:
        runtime: The runtime level.
        hash_seed: PYTHONHASHSEED, or None for a random one.
    """
    pinned = {"PYTHONHASHSEED": RANDOM_HASH_SEED if hash_seed is None else str(hash_seed), "TF_CPP_MIN_LOG_LEVEL": "1"}
    if runtime.promise == "free":
        return pinned
    pinned |= {"PYTHONNOUSERSITE": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC", "KERAS_BACKEND": "tensorflow"}
    if runtime.intra_op_threads is not None:
        pinned |= dict.fromkeys(THREAD_VARIABLES, "1")
    if runtime.op_determinism:
        pinned["TF_ENABLE_ONEDNN_OPTS"] = "1"
    if runtime.instruction_set is not None:
        pinned |= {
            "ONEDNN_MAX_CPU_ISA": runtime.instruction_set,
            "OPENBLAS_CORETYPE": "Haswell",
            "NPY_DISABLE_CPU_FEATURES": NUMPY_ABOVE_AVX2,
            "CUDA_VISIBLE_DEVICES": "-1",
        }
    return pinned


def child_environment(runtime: RuntimeConfig, hash_seed: int | None, parent: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a training process: the cleaned environment of the parent, plus the pins.

    It never contains secrets of the tracker, which runs in a separate process.
    """
    kept = {k: value for k, value in parent.items() if k in KEPT or not k.startswith(SCRUBBED_PREFIXES)}
    if runtime.promise == "free":
        kept |= {key: value for key, value in parent.items() if key.startswith(("TF_", "OMP_", "CUDA_", "LD_PRELOAD"))}
    # Does not change bits, but saves a tenth of the memory, because TensorFlow's threads free memory that others
    # allocated (docs/performance.md).
    return {"MALLOC_ARENA_MAX": "1"} | kept | pinned_variables(runtime, hash_seed)


def cpu_features() -> dict[str, bool]:
    """Return the instruction sets of the CPU that NumPy found, without the disabled ones."""
    from numpy._core._multiarray_umath import __cpu_features__  # noqa: PLC0415  no public name (NumPy 2.4)

    return dict(__cpu_features__)


def check_machine(runtime: RuntimeConfig) -> None:
    """Check that this machine can keep the promise of a runtime level.

    Raises:
        MachineError: The level is `portable`, but this is not Linux on an x86-64 CPU with AVX2 and FMA.
    """
    if runtime.promise != "portable":
        return
    features = cpu_features()
    system, architecture = platform.system(), platform.machine()
    missing = [name for name, has in (("AVX2", "AVX2"), ("FMA", "FMA3")) if not features.get(has)]
    received = f"{system} on {architecture}"
    if architecture in X86_64 and missing:
        received += f" without {' and '.join(missing)}"
    elif system == "Linux" and architecture in X86_64:
        return
    raise MachineError(
        "runtime=portable",
        expected="Linux on an x86-64 CPU with AVX2 and FMA",
        received=received,
        fix="choose runtime=machine, which promises the same bits on this kind of machine",
    )


def inter_op_thread_count(limit: int) -> int:
    """Return the number of inter-op threads: at most one per core.

    More threads would compete for the cores. The number does not change bits (decision 5).
    """
    return min(limit, usable_cores())


@contextlib.contextmanager
def hidden_packages(packages: tuple[str, ...]) -> Iterator[None]:
    """Hide installed packages while the block imports others. After the block they can be imported again."""
    absent = [name for name in packages if name not in sys.modules]
    hidden: dict[str, Any] = dict.fromkeys(absent)  # None makes an import of it a ModuleNotFoundError
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def graph_rewrites(runtime: RuntimeConfig) -> dict[str, bool]:
    """Return which of TensorFlow's rewrites of graphs that change bits are on at a runtime level."""
    return {
        # Both rewrite divisions into multiplications by approximate reciprocals.
        "arithmetic_optimization": runtime.arithmetic_rewrites,
        "constant_folding": runtime.arithmetic_rewrites,
        # It fuses operations in a graph that Python calls, but not in one that another graph calls: so one step would
        # have other bits than several steps in one call, of which there are as many as the clock allows.
        "remapping": not runtime.op_determinism,
    }


def apply_pins(runtime: RuntimeConfig) -> None:
    """Apply the settings that must be set after TensorFlow is imported and before its first operation."""
    with hidden_packages(OPTIONAL_FOR_KERAS):
        import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    keras.backend.set_floatx("float32")
    keras.backend.set_image_data_format("channels_last")
    if runtime.intra_op_threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(runtime.intra_op_threads)
    if runtime.inter_op_threads is not None:
        tf.config.threading.set_inter_op_parallelism_threads(inter_op_thread_count(runtime.inter_op_threads))
    if runtime.op_determinism:
        tf.config.experimental.enable_op_determinism()
    if runtime.promise != "free":
        tf.config.optimizer.set_jit(False)
        tf.config.optimizer.set_experimental_options(graph_rewrites(runtime))


def seed_global_generators(seeds: Seeds) -> None:
    """Seed the three global generators, for code outside the project. Unseeded points stay unchanged."""
    import tensorflow as tf  # noqa: PLC0415

    python_seed = seeds.take("python/random")
    if python_seed is not None:
        random.seed(python_seed)
    numpy_seed = seeds.take("numpy/global")
    if numpy_seed is not None:
        np.random.seed(numpy_seed)  # noqa: NPY002  the global generator is the point
    tensorflow_seed = seeds.take("tensorflow/global")
    if tensorflow_seed is not None:
        tf.random.set_seed(tensorflow_seed)


def global_generator_states() -> dict[str, Any]:
    """Return the states of Python's and NumPy's global generators, to detect later whether code drew from them."""
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    key, position = numpy_state["state"]["key"].tobytes(), numpy_state["state"]["pos"]
    gauss = (numpy_state["has_gauss"], numpy_state["gauss"])
    return {"python/random": random.getstate(), "numpy/global": (key, position, *gauss)}


def generator_state_digests() -> dict[str, str]:
    """Return the digest of each global generator's state, as evidence of its seed. Does not change the state."""
    from tensorflow.python.eager import context  # noqa: PLC0415  no public name (TensorFlow 2.21)

    states = global_generator_states()
    standing = {
        "python/hash": hash("samebits"),
        "python/random": states["python/random"],
        "numpy/global": states["numpy/global"],
        "tensorflow/global": context.global_seed(),
    }
    return {point: bytes_digest(repr(state).encode()) for point, state in standing.items()}


def effective_settings() -> dict[str, Any]:
    """Return the effective value of every setting that affects bits, for the check and the record."""
    import tensorflow as tf  # noqa: PLC0415
    from tensorflow.python.framework.config import is_op_determinism_enabled  # noqa: PLC0415
    from tensorflow.python.util import _pywrap_util_port  # noqa: PLC0415  no public name (TensorFlow 2.21)
    from threadpoolctl import threadpool_info  # noqa: PLC0415

    features = cpu_features()
    rewrites = tf.config.optimizer.get_experimental_options()  # those that were never set are on
    blas = [pool for pool in threadpool_info() if pool["internal_api"] == "openblas" and "numpy" in pool["filepath"]]
    environment = {
        key: value for key, value in os.environ.items() if key.startswith(SCRUBBED_PREFIXES) or key in ("LC_ALL", "TZ")
    }
    return {
        "environment": dict(sorted(environment.items())),
        "hash_randomized": bool(sys.flags.hash_randomization),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "op_determinism": is_op_determinism_enabled(),
        "onednn": bool(_pywrap_util_port.IsMklEnabled()),
        "jit": tf.config.optimizer.get_jit() or "off",
        "arithmetic_rewrites": [name for name in graph_rewrites(RuntimeConfig()) if rewrites.get(name, True)],
        "gpus": [device.name for device in tf.config.get_visible_devices("GPU")],
        "numpy_dispatch": sorted(name for name in ("X86_V3", *NUMPY_ABOVE_AVX2.split()) if features.get(name)),
        "openblas": [{"architecture": pool["architecture"], "threads": pool["num_threads"]} for pool in blas],
    }


def expected_settings(runtime: RuntimeConfig, hash_seed: int | None) -> dict[str, Any]:
    """Return the settings that a level fixes, in the form of `effective_settings`."""
    expected: dict[str, Any] = {"environment": pinned_variables(runtime, hash_seed)}
    if hash_seed is not None:
        expected["hash_randomized"] = hash_seed != 0
    if runtime.intra_op_threads is not None:
        expected["intra_op_threads"] = runtime.intra_op_threads
    if runtime.inter_op_threads is not None:
        expected["inter_op_threads"] = inter_op_thread_count(runtime.inter_op_threads)
    if runtime.promise != "free":
        expected |= {"op_determinism": runtime.op_determinism, "jit": "off"}
        expected["arithmetic_rewrites"] = [name for name, is_on in graph_rewrites(runtime).items() if is_on]
    if runtime.op_determinism:
        expected["onednn"] = True
    if runtime.instruction_set is not None:
        expected |= {"numpy_dispatch": ["X86_V3"], "openblas": [{"architecture": "Haswell", "threads": 1}], "gpus": []}
    return expected


def check_pins(runtime: RuntimeConfig, hash_seed: int | None, effective: dict[str, Any]) -> None:
    """Check that all settings that the level fixes are in effect.

    Args:
        runtime: The runtime level.
        hash_seed: The seed of the point `python/hash`; None: unseeded.
        effective: The result of `effective_settings`.

    Raises:
        RuntimePinError: A setting is not in effect. The message has the first one.
    """
    expected = expected_settings(runtime, hash_seed)
    wanted, received = dict(expected), dict(effective)
    wanted_variables, variables = wanted.pop("environment"), received.pop("environment")
    pairs = [(name, value, variables.get(name, "unset")) for name, value in wanted_variables.items()]
    pairs += [(name, value, received[name]) for name, value in wanted.items()]
    for name, value, actual in pairs:
        if value != actual:
            when = "must be set before Python starts" if name in wanted_variables else "is not in effect"
            raise RuntimePinError(
                f"{name} {when}.",
                expected=value,
                received=actual,
                fix="start runs with samebits train, which sets it for the training process.",
            )


def end_process(code: int) -> NoReturn:
    """End this process at once. All files are written, and a normal exit of TensorFlow takes a second."""
    atexit._run_exitfuncs()  # noqa: SLF001  no public name; runs the exit functions of logging and user code
    sys.stdout.flush()
    os._exit(code)
