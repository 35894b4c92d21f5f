"""What only hardware can get wrong, asked before all else: layouts of tensor cores and of cuBLASLt, blocks that run at
once, graphs that follow one another, several engines, threads and processes.

On the host, too, where it can answer: so these tests are known to hold for a right engine.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_cuda_engine import (
    SETTINGS,
    X,
    assert_close,
    assert_gradients_agree,
    assert_trainings_agree,
    engines,
    problem,
    trained,
    y,
)

from fastmlp import MLPRegressor, _core


@pytest.fixture
def gpu(library):
    """Only on a GPU: what is asked, the host cannot show."""
    if library == os.environ.get("FASTMLP_TEST_CUDA_HOST"):
        pytest.skip("only on a GPU")


def assert_layers_close(network, ours, theirs, tolerance):
    """Weights and biases of each layer by their largest number: small ones must not hide behind large ones."""
    ends = [*network.offsets["coefs"][1:], network.offsets["intercepts"][0]]
    ends += [*network.offsets["intercepts"][1:], network.n_trainable]
    starts = [*network.offsets["coefs"], *network.offsets["intercepts"]]
    for start, end in zip(starts, ends, strict=True):
        error = np.abs(np.asarray(ours[start:end], float) - theirs[start:end]).max()
        assert error <= tolerance * np.abs(theirs[start:end]).max(), f"numbers {start} to {end} are off by {error}"


# --- products -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("ieee", 1e-5), ("tf32", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize(
    ("sizes", "n_rows"),
    [([784, 256, 128, 10], 128), ([54, 256, 7], 1000), ([129, 131, 3], 1), ([1000, 33, 1], 17), ([8, 512, 512, 2], 9)],
    ids=str,
)
def test_products_of_real_sizes(library, sizes, n_rows, precision, tolerance):
    """Against float64 on the CPU: each layer's gradient shows the products before it, in three layouts."""
    network = _core.Network(sizes, ["tanh"] * (len(sizes) - 2), "log_loss")
    parameters, X, y, _ = problem(network, "float64", n_rows)
    parameters *= 2 / np.sqrt(max(sizes))
    expected = _core.Engine(network, "float64").loss_and_gradient(parameters, X, y, None, 0.1)
    _, engine = engines(network, "float32", library, precision)
    found = engine.loss_and_gradient(parameters.astype("f"), X.astype("f"), y, None, 0.1)
    assert_close(found[0], expected[0], tolerance)
    assert_layers_close(network, found[2], expected[2], tolerance)


@pytest.mark.parametrize("n_outputs", [95, 96, 192, 193, 384, 1300])
def test_wide_outputs(library, n_outputs, dtype):
    """Rows of a loss fill shared memory up to its end, and go beyond."""
    network = _core.Network([4, n_outputs], [], "log_loss")
    assert_gradients_agree(network, dtype, library, n_rows=40)


# --- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "tolerance"), [("ieee", 1e-5), ("tf32", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("sizes", [[20, 40, 24, 5], [128, 128, 10], [33, 100, 2], [7, 16, 17, 1, 3]], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_step_takes_the_gradient(library, sizes, activation, precision, tolerance):
    """The velocity of SGD after one step of rate 1 is the gradient as the step found it: for narrow networks, in one
    kernel."""
    network = _core.Network(sizes, [activation] * (len(sizes) - 2), "squared_error")
    on_cpu, _ = engines(network, "float64", library)
    _, on_gpu = engines(network, "float32", library, precision)
    expected, found = one_step(on_cpu, network, "float64", 150), one_step(on_gpu, network, "float32", 150)
    assert_layers_close(network, found, expected, tolerance)


def one_step(engine, network, dtype, n_rows):
    """The velocity after one step of SGD of rate 1."""
    how = {"optimizer": "sgd", "learning_rate": 1.0, "learning_rate_init": 1.0, "max_iter": 1, "shuffle": False}
    return trained(engine, network, dtype, batch_size=n_rows, n_rows=n_rows, **how)[2][0]


@pytest.mark.parametrize(("precision", "tolerance"), [("ieee", 5e-5), ("tf32", 5e-3), ("bf16", 4e-2)])
@pytest.mark.parametrize("sizes", [[20, 40, 24, 5], [20, 300, 5]], ids=["narrow", "wide"])
def test_steps_of_many_blocks(library, gpu, sizes, precision, tolerance):
    """On all multiprocessors at once: what blocks leave for the last of them, it finds, again and again."""
    network = _core.Network(sizes, ["tanh"] * (len(sizes) - 2), "squared_error")
    on_cpu, on_gpu = engines(network, "float64", library)[0], engines(network, "float32", library, precision)[1]
    found = one_step(on_gpu, network, "float32", 100_000)
    assert_layers_close(network, found, one_step(on_cpu, network, "float64", 100_000), tolerance)
    for _ in range(20):
        np.testing.assert_array_equal(one_step(on_gpu, network, "float32", 100_000), found)


@pytest.mark.parametrize(("precision", "tolerance"), [("ieee", 5e-5), ("tf32", 5e-3), ("bf16", 4e-2)])
def test_cooperative_steps_of_all_blocks(library, gpu, precision, tolerance):
    """Blocks that wait for one another see what the others wrote, in every step of every graph."""
    network = _core.Network([54, 256, 256, 7], ["tanh", "gelu"], "log_loss")
    on_cpu, on_gpu = engines(network, "float64", library)[0], engines(network, "float32", library, precision)[1]
    found = one_step(on_gpu, network, "float32", 500)
    assert_layers_close(network, found, one_step(on_cpu, network, "float64", 500), tolerance)
    first, *others = (
        trained(engines(network, "float32", library, precision)[1], network, "float32", n_rows=2000, max_iter=5)[1]
        for _ in range(10)
    )
    for again in others:
        np.testing.assert_array_equal(again, first)


def test_many_replays(library, gpu):
    """A graph of many steps, started without a pause, sees what the one before has left."""
    network = _core.Network([6, 150, 2], ["tanh"], "squared_error")
    how = {"n_rows": 3000, "batch_size": 4, "max_iter": 4, "learning_rate": 1e-4, "learning_rate_init": 1e-4}
    assert_trainings_agree(network, "float64", library, factor=1e3, **how)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("sizes", [[5, 9, 6, 3], [300, 150, 140, 3]], ids=["narrow", "wide"])
def test_the_same_bits_in_every_precision(library, sizes, precision):
    network = _core.Network(sizes, ["gelu"] * 2, "log_loss", dropout=[0, 0.2, 0.2])
    first, again = (
        trained(engines(network, "float32", library, precision)[1], network, "float32", dropout_seed=3)
        for _ in range(2)
    )
    assert first[0]["loss_curve"] == again[0]["loss_curve"]
    np.testing.assert_array_equal(first[1], again[1])


# --- beside others in one process -----------------------------------------------------------------------------------

LARGE = _core.Network([128, 128, 10], ["tanh"], "log_loss")  # of one kernel, each with another amount of shared memory
MIDDLE = _core.Network([96, 64, 4], ["tanh"], "log_loss")


def test_engines_take_turns(library):
    """Each keeps the shared memory that its kernel was started with, whatever others ask for."""
    expected, found = (
        [engines(network, "float32", library, "tf32")[1] for network in (LARGE, MIDDLE)] for _ in range(2)
    )
    curves = []
    for batch_size in (16, 32):
        for alone, beside, network in zip(expected, found, (LARGE, MIDDLE), strict=True):
            curves.append(trained(beside, network, "float32", batch_size=batch_size)[0]["loss_curve"])
            assert trained(alone, network, "float32", batch_size=batch_size)[0]["loss_curve"] == curves[-1]
    assert trained(found[0], LARGE, "float32", batch_size=16)[0]["loss_curve"] == curves[0]


def test_engines_in_threads(library, gpu):
    def curve(network):
        return trained(engines(network, "float32", library)[1], network, "float32", max_iter=20)[0]["loss_curve"]

    networks = [LARGE, MIDDLE, _core.Network([200, 300, 3], ["gelu"], "log_loss")] * 2
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(curve, networks)) == [curve(network) for network in networks]


def in_a_process(program):
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_forked_process_is_told_so(library, gpu):
    said = in_a_process(
        "import os, warnings, fastmlp; warnings.simplefilter('ignore')\n"
        "print(bool(fastmlp.cuda_status()), flush=True)\n"
        "child = os.fork()\n"
        "print(fastmlp.cuda_status(), flush=True) if child == 0 else os.waitpid(child, 0)\n"
    )
    assert "True" in said
    assert "this process was forked from one that had used CUDA" in said


def test_an_engine_that_outlives_the_interpreter(library, gpu):
    said = in_a_process(
        "import numpy as np; from fastmlp import _core, _cuda\n"
        "network = _core.Network([3, 4, 1], ['tanh'], 'squared_error')\n"
        "engine = _core.Engine(network, 'float32', 0, None, tuple(_cuda.gpu_place('cuda', 'ieee')))\n"
        "engine.loss_and_gradient(np.zeros(network.n_parameters, 'f'), np.ones((5, 3), 'f'), np.ones((5, 1), 'f'), "
        "None, 0.0)\n"
        "_core.kept = engine\n"
    )
    assert said == ""


def test_after_memory_has_run_out(library, gpu):
    """The next fit is as if nothing had been."""
    huge = MLPRegressor(hidden_layer_sizes=(1 << 20, 2), batch_size=1 << 17, max_iter=1, device="cuda", dtype="float32")
    rows = np.zeros((1 << 17, 1), "f")
    with pytest.raises(MemoryError, match="of the device's memory"):
        huge.fit(rows, rows[:, 0])
    fits = [MLPRegressor(**SETTINGS, device=device).fit(X, y).coefs_[0] for device in ("cpu", "cuda")]
    assert_close(fits[1], fits[0], 1e-9)
