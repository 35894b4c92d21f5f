"""What is installed is what was promised: versions agree, types are shipped, stubs and extension match."""

import ast
import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest

import fastmlp
from fastmlp import _core

PACKAGE = Path(_core.__file__).parent


def members(body):
    """Public names that a stub, or a class in it, declares; type aliases exist for the type checker only."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.AnnAssign) and not (
            isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
        ):
            yield node.target.id, node


STUB = dict(members(ast.parse((PACKAGE / "_core.pyi").read_text()).body))


def public(thing):
    return {name for name in vars(thing) if not name.startswith("_") or name in ("__call__", "__len__")}


def test_versions_agree():
    assert fastmlp.__version__ == _core.__version__ == importlib.metadata.version("fastmlp")
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", fastmlp.__version__)


def test_types_are_shipped():
    assert (PACKAGE / "py.typed").is_file()


def test_the_stub_lists_exactly_what_the_core_has():
    assert STUB.keys() - {"__version__"} == public(_core)


@pytest.mark.parametrize("name", [name for name, node in STUB.items() if isinstance(node, ast.ClassDef)])
def test_the_stub_lists_exactly_what_a_class_has(name):
    declared = dict(members(STUB[name].body)).keys()
    assert declared - {"__init__"} == public(getattr(_core, name))


@pytest.mark.parametrize("name", [name for name, node in STUB.items() if isinstance(node, ast.FunctionDef)])
def test_the_stub_names_the_arguments(name):
    """pybind11 writes the signature into the first line of the docstring."""
    declared = [argument.arg for argument in STUB[name].args.args]
    signature = inspect.getdoc(getattr(_core, name)).splitlines()[0]
    assert re.findall(r"(?:\(|, )(\w+):", signature) == declared


def test_all_is_all_there_is():
    assert set(fastmlp.__all__) <= set(dir(fastmlp))
    for name in fastmlp.__all__:
        assert getattr(fastmlp, name) is not None
