"""The three steps of deep learning, made visible: one file for each lesson, run by ``python -m fastmlp.examples``.

A lesson is a script: its docstring is the title and the introduction, each ``# %%`` begins a block of prose (comment
lines) and code. It runs in full in less than a minute on two cores. Where that is too long for a test, it says in the
open what it does instead: ``max_iter = 2 if quick() else 60``.
"""

import os


def quick() -> bool:
    """Tell whether a lesson should only show that it runs: smaller, within seconds, with worse numbers.

    So it is if the environment variable ``FASTMLP_QUICK`` is set to anything but 0, as the tests and
    ``python -m fastmlp.examples --quick`` do.

    Returns
    -------
    quick : bool
        False unless asked for.

    Examples
    --------
    >>> from fastmlp.examples import quick
    >>> max_iter = 2 if quick() else 60
    """
    return os.environ.get("FASTMLP_QUICK", "0") not in ("", "0")
