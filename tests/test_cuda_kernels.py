"""Kernels for graphics processors, compiled but not run: no spills, tensor cores where they are meant, few registers.

What they compute is tested on the host by ``tests/cpp``; here the compiler says what it made of them.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cuda import CUOBJDUMP, WHERE_TOOLS_ARE

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "src" / "cpp" / "cuda"
BETWEEN_PRODUCTS = ROOT / "tests" / "cpp" / "kernels_between_products.cu"
OF_A_PRECISION = sorted(
    path for folder in ("cooperative", "fused", "fit_many") for path in (CUDA / folder).glob("*.cu")
)
ARCHITECTURES = re.findall(r"\d+", os.environ.get("FASTMLP_TEST_CUDA_KERNELS", ""))
MOST_REGISTERS = 255  # of a thread; blocks of 256 threads then still fit

NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(
    NVCC is None or not ARCHITECTURES,
    reason="compiling takes minutes: needs nvcc, in $CUDACXX or on the path, and FASTMLP_TEST_CUDA_KERNELS=80,90",
)
needs_cuobjdump = pytest.mark.skipif(
    not CUOBJDUMP or not shutil.which("nvdisasm", path=WHERE_TOOLS_ARE),
    reason="cuobjdump is not installed, or nvdisasm, which it needs",
)


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.fixture(scope="module", params=[BETWEEN_PRODUCTS, *OF_A_PRECISION], ids=name_of)
def compiled(request, tmp_path_factory):
    """Source, what ptxas says of each kernel, the PTX of each architecture, and the object."""
    folder = tmp_path_factory.mktemp("cuda")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    options = ["-std=c++17", "--expt-relaxed-constexpr", "-Werror=all-warnings", "-Xptxas=-v", *targets]
    output = folder / "kernels.o"
    keep = ["--keep", "--keep-dir", folder]
    ran = subprocess.run(
        [NVCC, *options, *keep, "-c", request.param, "-o", output], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    ptx = [path.read_text() for path in folder.glob("*.ptx")]
    return request.param, ran.stderr, ptx, output


@needs_nvcc
@pytest.mark.timeout(900)
def test_kernels_do_not_spill(compiled):
    source, said, *_ = compiled
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", said)
    assert {architecture for _, architecture in kernels} == set(ARCHITECTURES)
    used = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(used) >= len(kernels) > 0
    assert set(used) == {("0", "0", "0")}, f"{source.name} uses local memory"
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", said)]
    assert len(registers) == len(kernels)
    assert max(registers) <= MOST_REGISTERS


def wanted_products(source):
    """The kind of product that a kernel's name promises."""
    return {
        "tf32": "mma.sync.aligned.m16n8k8.row.col.f32.tf32",
        "bf16": "mma.sync.aligned.m16n8k16.row.col.f32.bf16",
    }.get(source.stem.split("_")[0])


@needs_nvcc
def test_products_are_those_of_the_name(compiled):
    source, _, ptx, _ = compiled
    assert len(ptx) == len(ARCHITECTURES)
    for text in ptx:
        found = set(re.findall(r"mma\.sync\.[\w.]+", text))
        wanted = wanted_products(source)
        assert bool(found) == (wanted is not None)
        assert all(kind.startswith(wanted or "") for kind in found)
        assert not re.findall(r"(?:atom|red)\.[\w.]*(?:add|min|max)[\w.]*\.(?:f16|f32|f64|bf16)", text)


@needs_nvcc
@needs_cuobjdump
def test_tensor_cores_are_used(compiled):
    source, _, _, output = compiled
    sass = subprocess.run([CUOBJDUMP, "-sass", output], capture_output=True, text=True, check=True).stdout
    assert ("HMMA" in sass) == (wanted_products(source) is not None)


def test_no_kernel_is_started_but_by_launch():
    for path in CUDA.rglob("*.cu*"):
        if path.name != "launch.cuh":
            assert "<<<" not in path.read_text(), path.name
