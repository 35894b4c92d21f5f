"""Pages of documentation as the tests read them: blocks of Python, and what the page says that they print."""

import contextlib
import doctest
import io
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# a block of Python, and the block marked "output" that may come next
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n*```output\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
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
    names = {"__name__": "__main__"}
    for block in blocks(page.read_text()):
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        got = printed.getvalue()
        assert doctest.OutputChecker().check_output(block.output, got, LENIENT), (
            f"{page.name}, line {block.line}: the page says\n{block.output}\nbut this was printed:\n{got}"
        )
