"""Run one lesson block by block and keep what it says, prints and draws.

``python -m fastmlp.examples.blocks LESSON.py RESULT.json`` does so in a process of its own.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import sys
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

DOTS_PER_INCH = 150  # of pictures


@dataclass
class Block:
    """Prose, the code below it from its line on, and, once it ran, what it printed, drew (PNG in base64) and raised."""

    prose: str
    code: str = ""
    line: int = 1
    printed: str = ""
    pictures: list[str] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


def split(text: str) -> list[Block]:
    r"""Split a lesson into blocks: its docstring first, then one for each ``# %%``.

    Parameters
    ----------
    text : str
        A Python script in the style of sphinx-gallery.

    Returns
    -------
    blocks : list of Block
        Not yet run.

    Raises
    ------
    ValueError
        If the script has no docstring.

    Examples
    --------
    >>> from fastmlp.examples.blocks import split
    >>> [(block.prose, block.code) for block in split("'''Title'''\nx = 1\n\n# %%\n# Then:\nprint(x)\n")]
    [('Title', 'x = 1'), ('Then:', 'print(x)')]
    """
    tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    if docstring is None:
        raise ValueError("a lesson must begin with a docstring: its title and what it shows")
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")] + [len(lines)]
    begin = tree.body[0].end_lineno or 0
    blocks = [_block(docstring, lines, begin, starts[0])]
    for start, end in pairwise(starts):
        stop = start + 1
        while stop < end and lines[stop].startswith("#"):
            stop += 1
        prose = [re.sub(r"^# ?(%% ?)?", "", line) for line in lines[start:stop]]
        blocks.append(_block("\n".join(prose).strip(), lines, stop, end))
    return blocks


def _block(prose: str, lines: list[str], begin: int, end: int) -> Block:
    while begin < end and not lines[begin].strip():
        begin += 1
    return Block(prose, "\n".join(lines[begin:end]).rstrip(), begin + 1)


def run(path: Path, names: dict[str, Any] | None = None) -> list[Block]:
    """Run a lesson; after an error its other blocks stay as they are.

    Parameters
    ----------
    path : Path
        The lesson's file.
    names : dict or None, default=None
        Where the lesson's own names go; None forgets them.

    Returns
    -------
    blocks : list of Block
        With all that they printed, drew and raised.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    others = set(pyplot.get_fignums())
    blocks = split(path.read_text(encoding="utf-8"))
    names = {} if names is None else names
    names.update(__name__="__main__", __file__=str(path))
    for block in blocks:
        start, printed = time.perf_counter(), io.StringIO()
        try:
            code = compile("\n" * (block.line - 1) + block.code, path, "exec")
            with redirect_stdout(printed):
                exec(code, names)
        except Exception:
            block.error = traceback.format_exc()
        block.seconds = time.perf_counter() - start
        block.printed = printed.getvalue()
        block.pictures = [_take_picture(number) for number in pyplot.get_fignums() if number not in others]
        if block.error:
            break
    return blocks


def _take_picture(number: int) -> str:
    from matplotlib import pyplot

    picture = io.BytesIO()
    pyplot.figure(number).savefig(picture, format="png", dpi=DOTS_PER_INCH)
    pyplot.close(number)
    return base64.b64encode(picture.getvalue()).decode()


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps([asdict(block) for block in run(Path(sys.argv[1]))]), encoding="utf-8")
