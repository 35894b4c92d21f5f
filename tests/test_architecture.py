"""The shape of the code: which file may know which, how large they get, and that each name lives in one place."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastmlp import _core

ROOT = Path(__file__).parents[1]
CPP, PYTHON = ROOT / "src" / "cpp", ROOT / "src" / "python" / "fastmlp"
# A file may include only what stands above it, a module import only that; a folder is one room. The package itself,
# `__init__`, is a front door that opens rooms on demand.
CPP_ROOMS = [
    "host_device",
    "vector_math",
    "dual",
    "catalog",
    "activations",
    "losses",
    "optimizers",
    "normalizations",
    "network",
    "random",
    "engine",
    "step",
    "many_engine",
    "cpu",
    "cuda",
    "trainer",
    "many_trainer",
    "bindings",
]
PYTHON_ROOMS = [
    "_core",
    "_validation",
    "_cuda",
    "_cuda_arrays",
    "_losses",
    "_engine",
    "_parameters",
    "_display",
    "_initialization",
    "_answers",
    "_labels",
    "_random_state",
    "_training",
    "_divergence",
    "_placement",
    "schedules",
    "optimizer_state",
    "predictor",
    "files",
    "_held_out",
    "_history",
    "_verbose",
    "_run",
    "callbacks",
    "_scikit_learn_callbacks",
    "_solvers",
    "_saving",
    "_features",
    "_calibration",
    "_calibrated",
    "_links",
    "_inspection",
    "_constraints",
    "estimators",
    "classifier",
    "regressor",
    "_fit_many",
    "_lr_find",
    "network",
    "plot",
    "__init__",
    "export",
    "_config",
    "_digits_picture",
    "_digits",
    "__main__",
    "examples",
]


def room(path, top):
    return path.relative_to(top).parts[0].split(".")[0]


CPP_FILES = sorted(path for path in CPP.rglob("*") if path.suffix in (".hpp", ".cpp", ".cuh", ".cu"))
PYTHON_FILES = sorted(PYTHON.rglob("*.py"))

# Activations as ONNX, C and PyTorch write them: an entry without a line there works, but is not exported.
IN_OTHER_LANGUAGES = PYTHON / "export" / "_functions.py"

# Lessons use entries of the catalogues by name, as users do.
LESSONS = {path for path in PYTHON_FILES if room(path, PYTHON) == "examples"}

# Names that other files may know: scikit-learn's own, which the estimators must offer whatever the catalogues list
ALLOWED = {
    "Identity": "what the kernels do to a layer without activation",
    "identity": "also the link of a loss",
    "logistic": "also the link of a loss; and weights start smaller for it",
    "relu": "the default of `activation`",
    "log_loss": "the loss of classifiers, and the one that takes class numbers",
    "binary_log_loss": "the loss of two classes and of many labels",
    "squared_error": "the default of `loss`",
    "adam": "the default of `solver`",
    "gamma": "also the factor of a schedule",
}


def includes(path):
    return [(path.parent / name).resolve() for name in re.findall(r'#include "(.+?)"', path.read_text())]


def imports(path):
    """Modules of the package that a module imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ("__init__" for alias in node.names if alias.name == "fastmlp")
        elif isinstance(node, ast.ImportFrom):
            parts = ("fastmlp." * bool(node.level) + (node.module or "")).rstrip(".").split(".")
            if parts[0] == "fastmlp":
                names = parts[1:2] or [alias.name for alias in node.names]
                yield from (name if name in PYTHON_ROOMS else "__init__" for name in names)


def test_sources_are_found():
    assert {"catalog.hpp", "kernels.cpp", "activations.hpp"} <= {path.name for path in CPP_FILES}
    assert {"__init__.py", "estimators.py"} <= {path.name for path in PYTHON_FILES}


@pytest.mark.parametrize("path", CPP_FILES, ids=lambda path: path.relative_to(CPP).as_posix())
def test_includes_go_one_way(path):
    assert room(path, CPP) in CPP_ROOMS, "a new room needs its place in the order"
    for included in includes(path):
        assert CPP_ROOMS.index(room(included, CPP)) <= CPP_ROOMS.index(room(path, CPP))


def test_no_cycle_of_includes():
    left = {path: set(includes(path)) for path in CPP_FILES}
    while free := [path for path, needed in left.items() if not needed & left.keys()]:
        for path in free:
            del left[path]
    assert not left


def test_only_the_bindings_know_python():
    assert {room(path, CPP) for path in CPP_FILES if re.search(r"pybind11|Python\.h", path.read_text())} == {"bindings"}


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_imports_go_one_way(path):
    assert room(path, PYTHON) in PYTHON_ROOMS, "a new module needs its place in the order"
    own = PYTHON_ROOMS.index(room(path, PYTHON))
    for name in imports(path):
        inside = name == room(path, PYTHON) and path.parent != PYTHON
        assert path.name == "__init__.py" or inside or PYTHON_ROOMS.index(name) < own, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", CPP_FILES + PYTHON_FILES, ids=lambda path: path.name)
def test_files_are_short(path):
    """Docstrings apart: an estimator has many parameters to describe."""
    n_lines = len(path.read_text().splitlines())
    if path.suffix == ".py":
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "body")]
        documented = [node.body[0] for node in nodes if isinstance(node.body, list) and _docstring(node)]
        n_lines -= sum(first.end_lineno - first.lineno + 1 for first in documented)
    assert n_lines <= 400, path.name


def _docstring(node):
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    return documented and ast.get_docstring(node)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: path.name)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            assert node.end_lineno - node.lineno + 1 - docstring <= 60, f"{path.name}: {node.name}"


def test_names_say_what_a_thing_is():
    said = {word for path in CPP_FILES + PYTHON_FILES for word in re.split(r"[_.]", path.name)}
    assert not said & {"utils", "util", "common", "helpers", "helper", "misc"}


def code(path):
    """The text of a file without comments; of Python only names and strings, without docstrings."""
    if path.suffix != ".py":
        return re.sub(r"//.*", "", path.read_text())
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if id(node) not in prose]
    return " ".join(repr(node.value) if isinstance(node, ast.Constant) else getattr(node, "id", "") for node in nodes)


def names_known(path, names, structs):
    """Entries of a catalogue that a file spells as a string, or whose struct it names."""
    text = code(path)
    return (set(re.findall(r"""["'](\w+)["']""", text)) & names) | (set(re.findall(r"\w+", text)) & structs)


@pytest.mark.parametrize("catalogue", ["activations", "losses", "optimizers"])
def test_adding_an_entry_edits_one_file(catalogue):
    own = {path for path in CPP_FILES if room(path, CPP) == catalogue}
    text = "".join(path.read_text() for path in own)
    lists = re.findall(r"^using \w+\s*=\s*Catalog<(.+?)>;", text, re.MULTILINE | re.DOTALL)
    names, structs = set(getattr(_core, catalogue)()), set(re.findall(r"\w+", " ".join(lists)))
    assert len(structs) == len(names)
    for path in {*CPP_FILES, *PYTHON_FILES} - {*own, *LESSONS, IN_OTHER_LANGUAGES}:
        known = names_known(path, names, structs) - ALLOWED.keys()
        assert not known, f"{path.name} knows {known}"


@pytest.mark.parametrize("name", ALLOWED)
def test_every_exception_is_needed(name):
    """Else it would hide a mistake later: some file beside the catalogue's knows the name."""
    files = {*PYTHON_FILES, *CPP_FILES} - LESSONS
    assert sum(bool(names_known(path, {name}, {"Identity"} & {name})) for path in files) > 1


def kernel_objects():
    """Objects of builds that are meant to be shipped; sanitizers add their own symbols."""
    for cache in (ROOT / "build").glob("*/CMakeCache.txt"):
        if "FASTMLP_SANITIZE:STRING=\n" in cache.read_text():
            yield from cache.parent.glob("CMakeFiles/kernels_*/**/kernels.cpp.o")


@pytest.mark.parametrize("path", list(kernel_objects()), ids=lambda path: path.parents[3].stem)
def test_kernels_emit_no_weak_symbols(path):
    """The linker keeps one copy of a weak function: it could be the one with instructions that this machine lacks."""
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    symbols = subprocess.run(["nm", "--defined-only", "-C", path], capture_output=True, text=True, check=True).stdout
    weak = [line for line in symbols.splitlines() if re.search(r" [WVu] ", line)]
    assert not [line for line in weak if "DW.ref.__gxx_personality" not in line]


def test_importing_the_package_does_not_import_scikit_learn():
    code = "import sys, fastmlp; print([name for name in ('sklearn', 'scipy', 'pandas') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
