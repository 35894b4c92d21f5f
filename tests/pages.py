"""Pages of documentation as the tests read them: blocks of Python, and what the page says that they print.

``python tests/pages.py PAGE...`` writes into pages what their blocks print now, where that is something else.
"""

import contextlib
import doctest
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# a block of Python, and the block marked "output" that may come next
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n*```output\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?%?)")
LENIENT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """Some Python of a page, the line on which it begins, and what it shall print."""

    code: str
    line: int
    output: str


def blocks(text):
    for match in BLOCK.finditer(text + "\n"):
        yield Block(match[1], text.count("\n", 0, match.start(1)) + 1, match[2] or "")


def code_in(text):
    return "\n".join(block.code for block in blocks(text))


def run(page):
    """Run all blocks of a page, one after the other in one namespace; errors name lines of the page."""
    for block, printed in results(page):
        assert agree(block.output, printed), (
            f"{page.name}, line {block.line}: the page says\n{block.output}\nbut this was printed:\n{printed}"
        )


def results(page):
    """Yield each block, and what it prints."""
    names = {"__name__": "__main__"}
    for block in blocks(page.read_text()):
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        yield block, printed.getvalue()


def agree(said, printed):
    """Compare as a reader would: "..." stands for anything, and other machines round differently."""
    if doctest.OutputChecker().check_output(said, printed, LENIENT):
        return True
    ours, theirs = (NUMBER.split(" ".join(text.split())) for text in (said, printed))
    if len(ours) != len(theirs) or [text.strip() for text in ours[::2]] != [text.strip() for text in theirs[::2]]:
        return False
    return all(map(close, ours[1::2], theirs[1::2]))


def close(said, printed):
    """Two units of the last place that is said, for decimals and per cent; counts and labels must be the same."""
    if said[-1:] == printed[-1:] == "%":
        said, printed = said[:-1], printed[:-1]
    elif not re.search(r"[.e]", said):
        return said == printed
    mantissa, _, exponent = said.partition("e")
    last_place = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(said) - float(printed.rstrip("%"))) < 2.5 * last_place


def write_what_is_printed(page):
    text = page.read_text()
    for block, printed in results(page):
        if not agree(block.output, printed):
            shown = f"```python\n{block.code}```\n\n```output\n"
            text = text.replace(f"{shown}{block.output}```", f"{shown}{printed}```")
    page.write_text(text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write_what_is_printed(page)
            os.chdir(ROOT)
