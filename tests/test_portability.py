"""One wheel runs on every processor of its kind: wide instructions stay where the choice at run time guards them.

The kernels themselves are run for other processors by ``tests/cpp``.
"""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What no other instructions have in common: AVX begins with v, AVX-512 has registers zmm or masks
WIDE = {"baseline": r"^v", "avx2": r"zmm|\{%k\d\}", "avx512": None}
MULTIPLY_ADD = {"avx2": r"^vfmadd\w+ .*%ymm", "avx512": r"^vfmadd\w+ .*%zmm"}


def builds():
    """Folders of builds that are meant to be shipped; sanitizers leave out kernels."""
    for cache in (ROOT / "build").glob("*/CMakeCache.txt"):
        if "FASTMLP_SANITIZE:STRING=\n" in cache.read_text():
            yield cache.parent


BUILDS = list(builds())
if platform.machine() not in ("x86_64", "AMD64"):
    pytest.skip("these are the instructions of x86-64", allow_module_level=True)
if not shutil.which("objdump") or not BUILDS:
    pytest.skip("needs objdump, and a build in build/", allow_module_level=True)


def instructions(path):
    """Address and text of each instruction in an object or library."""
    command = ["objdump", "--disassemble", "--no-show-raw-insn", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ *([0-9a-f]+):\t(.+)$", text, re.MULTILINE)
    assert len(found) > 1000, path
    return [(int(address, 16), code) for address, code in found]


@pytest.mark.parametrize("build", BUILDS, ids=lambda path: path.name)
@pytest.mark.parametrize("isa", WIDE)
def test_a_kernel_set_uses_its_instructions_and_no_wider_ones(build, isa):
    (kernels,) = build.glob(f"CMakeFiles/kernels_{isa}.dir/**/kernels.cpp.o")
    codes = [code for _, code in instructions(kernels)]
    if WIDE[isa]:
        assert not [code for code in codes if re.search(WIDE[isa], code)]
    if isa in MULTIPLY_ADD:
        assert sum(bool(re.search(MULTIPLY_ADD[isa], code)) for code in codes) > 500


def parts_of_guarded_kernels(build):
    """Address ranges that kernels for newer processors occupy in the library, from the linker's map."""
    lines = re.findall(
        r"^ \.text\S*\s+0x(\w+)\s+0x(\w+) \S*kernels_avx", (build / "_core.map").read_text(), re.MULTILINE
    )
    return [(int(first, 16), int(first, 16) + int(size, 16)) for first, size in lines]


@pytest.mark.parametrize("build", BUILDS, ids=lambda path: path.name)
def test_nothing_else_in_the_library_needs_a_newer_processor(build):
    (library,) = build.glob("_core*.so")
    guarded = parts_of_guarded_kernels(build)
    wide = [address for address, code in instructions(library) if re.match(WIDE["baseline"], code)]
    assert len(wide) > 10_000
    assert not [hex(address) for address in wide if not any(first <= address < end for first, end in guarded)]
