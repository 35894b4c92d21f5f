"""The documentation keeps its word: what pages and docstrings show runs, prints what they say, and nothing is left out.

``docs/wishes.md`` has its own tests; `.ci/run` runs README's example, and builds the site.
"""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import BLOCK, ROOT, agree, blocks, run

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.schedules import WarmUp

DOCS = ROOT / "docs"
GENERATED = {"_generated", "gallery", "generated"}
PAGES = sorted(page for page in DOCS.rglob("*.md") if not GENERATED & set(page.relative_to(DOCS).parts))
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text()) and page.name != "wishes.md"]
REFERENCE = (DOCS / "reference" / "index.md").read_text()
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fastmlp.__path__, "fastmlp.")
    if not re.search(r"\.(__main__|plot_\d.*|_core)$", module.name)
]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def test_pages_are_found():
    assert {"index.md", "fitting.md", "keras.md", "0001-blas-from-scipy.md"} <= {page.name for page in PAGES}
    assert len(WITH_CODE) > 15


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run(page):
    """Or it is marked "py": other libraries' code, where one moves from there, and what needs a GPU."""
    kinds = re.findall(r"^```(?!\{)(\w+)$", page.read_text(), re.MULTILINE)
    not_run = {"py"} if page.parent.name == "migration" or page.name == "gpu.md" else set()
    assert set(kinds) <= {"python", "output", "sh", "cpp"} | not_run
    assert kinds.count("python") == len([*blocks(page.read_text())])
    assert kinds.count("output") == sum(bool(block.output) for block in blocks(page.read_text()))


@pytest.mark.parametrize("printed", ["2", "1\n2", ""])
def test_a_page_that_is_wrong_is_noticed(tmp_path, printed):
    page = tmp_path / "page.md"
    shown = f"```output\n{printed}\n```\n" if printed else ""
    page.write_text(f"# Page\n\n```python\nprint(1)\n```\n\n{shown}")
    with pytest.raises(AssertionError, match="line 4"):
        run(page)


@pytest.mark.parametrize(
    ("said", "printed", "same"),
    [
        ("0.93\n", "0.95\n", True),
        ("0.93\n", "0.96\n", False),
        ("98% of 10\n", "97% of 10\n", True),
        ("98% of 10\n", "98% of 11\n", False),
        ("[0.9 0.1]\n", "[0.9  0.2]\n", True),
        ("1e-05\n", "9e-05\n", False),
        ("a 1.0\n", "b 1.0\n", False),
        ("1.0\n", "1.0 2.0\n", False),
        ("a ... c\n", "a b c\n", True),
        ("", "1\n", False),
    ],
)
def test_what_counts_as_the_same(said, printed, same):
    assert agree(said, printed) is same


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    if name == "fastmlp.export.pytorch":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    module = import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    assert (results.attempted > 0) == bool(re.search(r"^ *>>> ", inspect.getsource(module), re.MULTILINE))


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))], ids=name_of
)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"https?://", link) and not GENERATED & set(Path(link).parts):
            assert (page.parent / link).exists(), link


def public_names():
    yield from (name for name in fastmlp.__all__ if not inspect.ismodule(getattr(fastmlp, name)))
    for module in ("callbacks", "export", "schedules", "plot"):
        found = import_module(f"fastmlp.{module}")
        own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == found.__name__]
        names = getattr(found, "__all__", own)
        yield from (f"{module}.{name}" for name in names if not name.startswith("_"))


# what schedules are made of, for the estimators
INTERNAL = {f"schedules.{name}" for name in ("build", "factors", "learning_rates", "plateau_of")}


def test_the_reference_is_complete():
    listed = set(re.findall(r"^   ([\w.]+)$", REFERENCE, re.MULTILINE))
    assert {*public_names()} - INTERNAL <= listed
    for name in listed - (set() if find_spec("torch") else {"export.to_torch", "export.from_torch"}):
        module, _, member = f"fastmlp.{name}".rpartition(".")
        assert inspect.getdoc(getattr(import_module(module), member)), name


@pytest.mark.parametrize("page", sorted((DOCS / "migration").glob("*.md")), ids=name_of)
def test_names_in_migration_tables_exist(page):
    functions = MLPClassifier, MLPRegressor, MLPClassifier.fit, MLPRegressor.predict_interval, WarmUp
    known = {name for function in functions for name in inspect.signature(function).parameters}
    rows = re.findall(r"^\| .+? \| (.+) \|$", page.read_text(), re.MULTILINE)
    assert rows
    for code in re.findall(r"`([^`]+)`", "\n".join(rows)):
        assert set(re.findall(r"(\w+)=", code)) <= known, code
