"""The guard of the hot kernels, ``tests/cpp/count_instructions.py``: what it reads, and what it objects to."""

import importlib.util
from pathlib import Path

import pytest


def load():
    path = Path(__file__).parent / "cpp/count_instructions.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


count_instructions = load()


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ({"forward": 1029, "update": 90}, []),
        ({"forward": 1031, "update": 100}, ["small: forward: 1000 -> 1031 instructions (+3.1%)"]),
        ({"forward": 1000}, ["small: update is not executed any more"]),
        ({"forward": 1000, "update": 100, "gather": 1}, ["small: gather is not recorded"]),
    ],
)
def test_more_instructions_than_recorded_are_noticed(counted, said):
    recorded = {"small": {"forward": 1000, "update": 100}}
    assert list(count_instructions.regressions(recorded, {"small": counted})) == said


def test_profiles_are_read():
    """Costs of a function are its own and those of its calls; names are written once."""
    kernel = "fastmlp::avx2::(anonymous namespace)::"
    profile = f"""positions: line
events: Ir
fn=(1) void {kernel}forward<float>(int)
12 100
+3 20
cfn=(2) auto {kernel}forward<float>(int)::{{lambda(auto:1)#1}}::operator()<fastmlp::Relu>(fastmlp::Relu) const
calls=2 7
* 900
fn=(2)
7 900
fn=(3) fastmlp::(anonymous namespace)::CpuEngine<float>::epoch(int)
5 1
cfn=(1)
calls=1 0
* 1020
"""
    counts = count_instructions.kernel_counts(profile, {"forward", "update"})
    assert counts == {"forward": 1020, "epoch": 1021}
