"""Kernels for graphics processors, compiled but not run: no spills, tensor cores where they are meant, few registers.

What they compute is tested on the host by ``tests/cpp``; here the library says what the compiler made of them.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from test_cuda import CUOBJDUMP, LIBRARY, WHERE_TOOLS_ARE, built

CUDA = Path(__file__).parents[1] / "src" / "cpp" / "cuda"
MOST_REGISTERS = 255  # of a thread; blocks of 256 threads then still fit
# Which kernels multiply matrices, and by which instruction in each precision
PRODUCTS = re.compile(r"fused_step|cooperative_steps|fit_many")
INSTRUCTIONS = {"0": set(), "1": {"HMMA.1688.F32.TF32"}, "2": {"HMMA.16816.F32.BF16"}}


class Kernel(NamedTuple):
    """What is known of a kernel on one architecture."""

    name: str  # mangled
    architecture: str
    resources: dict[str, int]
    code: str


def dump(kind):
    """Return pairs of an architecture and what ``cuobjdump`` says of one kernel."""
    ran = subprocess.run([CUOBJDUMP, kind, LIBRARY], capture_output=True, text=True, check=True)
    for part in re.split(r"^Fatbin elf code:\n", ran.stdout, flags=re.MULTILINE)[1:]:
        part = part.split("\nFatbin ptx code:\n")[0]
        architecture = re.search(r"^arch = (\w+)$", part, re.MULTILINE)[1]
        for text in re.split(r"^\s*Function\b[ :]*", part, flags=re.MULTILINE)[1:]:
            yield architecture, text


@pytest.fixture(scope="module")
def kernels():
    """All kernels of the library, those of each architecture."""
    if not CUOBJDUMP or not shutil.which("nvdisasm", path=WHERE_TOOLS_ARE):
        pytest.skip("cuobjdump is not installed, or nvdisasm, which it needs")
    code = {(architecture, text.split("\n")[0].strip()): text for architecture, text in dump("-sass")}
    found = []
    for architecture, text in dump("-res-usage"):
        name, used = re.match(r"(\w+):\s*(.*)", text).groups()
        resources = {what: int(n) for what, n in re.findall(r"(\w+):(\d+)", used)}
        found.append(Kernel(name, architecture, resources, code[architecture, name]))
    return found


@built
def test_kernels_are_there_for_both_architectures(kernels):
    of_architecture = defaultdict(set)
    for kernel in kernels:
        of_architecture[kernel.architecture].add(kernel.name)
    assert set(of_architecture) == {"sm_80", "sm_90"}
    assert of_architecture["sm_80"] == of_architecture["sm_90"]
    products = {kernel.name for kernel in kernels if PRODUCTS.search(kernel.name)}
    assert len(products) >= 8
    assert len(of_architecture["sm_90"] - products) >= 20


@built
def test_kernels_do_not_spill(kernels):
    for kernel in kernels:
        assert kernel.resources["STACK"] == kernel.resources["LOCAL"] == 0, kernel[:3]
        assert kernel.resources["REG"] <= MOST_REGISTERS, kernel[:3]


@built
def test_products_are_those_of_their_precision(kernels):
    """On tensor cores; and exactly where they are meant."""
    for kernel in kernels:
        found = set(re.findall(r"\b(HMMA[.\w]*)", kernel.code))
        wanted = INSTRUCTIONS[re.search(r"PrecisionE(\d)E", kernel.name)[1]] if PRODUCTS.search(kernel.name) else set()
        assert found == wanted, kernel[:2]


@built
def test_no_sum_depends_on_who_comes_first(kernels):
    for kernel in kernels:
        assert not re.findall(r"\b(?:ATOM|ATOMG|ATOMS|RED)\.[.\w]*\.(?:F16|F32|F64|BF16)", kernel.code), kernel[:2]


def test_no_kernel_is_started_but_by_launch():
    for path in CUDA.rglob("*.cu*"):
        if path.name != "launch.cuh":
            assert "<<<" not in path.read_text(), path.name
