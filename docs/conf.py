"""How the pages become a site: ``sphinx-build -W --keep-going -b html docs build/docs``.

The package must be installed: its docstrings become the reference, its examples the gallery. With FASTMLP_QUICK=1 in
the environment the examples run in their short form.
"""

import subprocess
import sys
from pathlib import Path

import fastmlp

project = "fastmlp"
author = "the fastmlp developers"
copyright = author
version = release = fastmlp.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]

# --- pages ------------------------------------------------------------------------------------------------------------
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
copybutton_selector = "div:not(.highlight-output) > div.highlight > pre"  # not what is printed

# --- reference --------------------------------------------------------------------------------------------------------
autosummary_generate = True
autodoc_mock_imports = ["torch"]  # too large to be asked for
autodoc_typehints = "none"  # the docstrings say more
autodoc_default_options = {"member-order": "groupwise"}
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False  # the templates list them
numpydoc_class_members_toctree = False

# --- gallery ----------------------------------------------------------------------------------------------------------
sphinx_gallery_conf = {
    "examples_dirs": "../src/python/fastmlp/examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_).*\.py$",
    "parallel": 2,
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "reference/generated/backreferences",
    "doc_module": ("fastmlp",),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 3600,  # seconds: they say more of the machine than of the lesson
    "write_computation_times": False,
    "capture_repr": (),
    "remove_config_comments": True,
}

# --- look -------------------------------------------------------------------------------------------------------------
html_theme = "furo"
html_title = f"fastmlp {release}"
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0a5fa5", "color-brand-content": "#0a5fa5"},
    "dark_css_variables": {"color-brand-primary": "#7cc0f5", "color-brand-content": "#7cc0f5"},
}
pygments_style = "tango"
pygments_dark_style = "github-dark"


def draw_digits(app):
    """Have ``python -m fastmlp`` draw its picture for the first page, unless it is there from an earlier build."""
    picture = Path(app.srcdir) / "_generated" / "digits.png"
    if not picture.exists():
        picture.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "fastmlp", "--no-compare", "--output", picture], check=True)


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out what comes from scikit-learn: its own pages document that."""
    return True if str(getattr(obj, "__module__", "")).startswith("sklearn.") else None


def setup(app):
    """Called by Sphinx."""
    app.connect("builder-inited", draw_digits)
    app.connect("autodoc-skip-member", skip_inherited)
