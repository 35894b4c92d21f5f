"""Fixtures that read the C++ catalogues, so that a new activation, loss or optimizer is tested without an edit here.

An entry without a formula in ``reference.py`` gets one from the core itself: every test still runs for it, but where
others are compared with NumPy it is held by the tests that need no oracle (central differences, a parabola that must
be minimised, agreement of dtypes, lengths and instruction sets). ``test_*_has_a_formula`` names such entries.
"""

import os
import re

# Tests ask for more threads than a small machine has; waiting ones must not spin. OpenMP reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import numpy as np
import pytest
import reference

from fastmlp import _core, _cuda

hypothesis.settings.register_profile("fastmlp", deadline=None, derandomize=True, max_examples=60, database=None)
hypothesis.settings.load_profile("fastmlp")

CUDA_HOST = os.environ.get("FASTMLP_TEST_CUDA_HOST")
CATALOGUES = {"activation": _core.activations(), "loss": _core.losses(), "optimizer": _core.optimizers()}
WITHOUT_FORMULA = {
    *(CATALOGUES["activation"].keys() - reference.ACTIVATIONS.keys()),
    *(CATALOGUES["loss"].keys() - reference.LOSSES.keys()),
    *(CATALOGUES["optimizer"].keys() - reference.OPTIMIZERS.keys()),
}


def activation_of_the_core(name):
    return lambda z: tuple(a.reshape(z.shape) for a in _core.apply_activation(name, np.ravel(z)))


def loss_of_the_core(name):
    return lambda z, y, clip=None, **parameters: _core.apply_loss(name, z, y, parameters)


def optimizer_of_the_core(name):
    return lambda *arguments: _core.apply_optimizer(name, *arguments)


for name in WITHOUT_FORMULA & CATALOGUES["activation"].keys():
    reference.ACTIVATIONS[name] = activation_of_the_core(name)
for name in WITHOUT_FORMULA & CATALOGUES["loss"].keys():
    reference.LOSSES[name] = loss_of_the_core(name)
    if CATALOGUES["loss"][name]["mean_over_outputs"]:
        reference.MEAN_OVER_OUTPUTS.add(name)
for name in WITHOUT_FORMULA & CATALOGUES["optimizer"].keys():
    reference.OPTIMIZERS[name] = optimizer_of_the_core(name)


def pytest_addoption(parser):
    parser.addoption("--every", type=int, default=1, metavar="N", help="run every Nth test: for slow, checked builds")


def pytest_collection_modifyitems(config, items):
    every = config.getoption("--every")
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % every])
    items[:] = items[::every]


def pytest_generate_tests(metafunc):
    """Give tests that ask for ``activation``, ``loss``, ``optimizer`` or ``dtype`` all of them, unless they choose."""
    chosen = str([mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")])
    for fixture, names in {**CATALOGUES, "dtype": ["float32", "float64"]}.items():
        if fixture in metafunc.fixturenames and fixture not in re.findall(r"\w+", chosen):
            metafunc.parametrize(fixture, names)


@pytest.fixture(params=_core.config()["instruction_sets"])
def instruction_set(request):
    """Run the test with the kernels of each instruction set that this machine has."""
    _core.set_instruction_set(request.param)
    yield request.param
    _core.set_instruction_set(os.environ.get("FASTMLP_ISA") or "auto")


@pytest.fixture
def has_formula():
    """Mark a name as held by central differences only, if ``reference.py`` does not know it."""

    def check(name):
        if name in WITHOUT_FORMULA:
            pytest.xfail(f"{name!r} has no formula in tests/reference.py: held by central differences alone")

    return check


@pytest.fixture(params=["host", pytest.param("cuda", marks=pytest.mark.cuda)])
def library(request, monkeypatch):
    """Path of the GPU engine that is tested: on a GPU where there is one, and on the host in its place.

    The host's library is that of tests/cpp/cuda_host_library.cpp; FASTMLP_TEST_CUDA_HOST is its path. With
    FASTMLP_REQUIRE_CUDA=1 a GPU that cannot be used is a failure: a run that was meant for one must not pass by
    skipping.
    """
    if request.param == "host":
        if not CUDA_HOST:
            pytest.skip("FASTMLP_TEST_CUDA_HOST is not set")
        monkeypatch.setenv("FASTMLP_CUDA_LIBRARY", CUDA_HOST)
    status = _cuda.cuda_status()
    if not status:
        assert os.environ.get("FASTMLP_REQUIRE_CUDA") != "1", str(status)
        pytest.skip(str(status))
    return _cuda.library_path()


@pytest.fixture
def host(library):
    """Only on the host: what is asked cannot be asked of a GPU."""
    if library != CUDA_HOST:
        pytest.skip("only where the host takes the GPU's place")
