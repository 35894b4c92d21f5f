"""One self-contained HTML page of the lessons: prose, code, tables, pictures."""

from __future__ import annotations

import platform
import re
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy
import sklearn

import fastmlp
from fastmlp.examples.blocks import DOTS_PER_INCH, Block

STYLE = """
:root { --ink: #22303c; --muted: #6f7d89; --pale: #e8ebee; --accent: #0072B2; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.2rem 6rem; color: var(--ink); background: white;
  font: 17px/1.6 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 2.2rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.7rem; line-height: 1.25; margin: 5rem 0 1rem; padding-top: 1.5rem; border-top: 3px solid var(--ink); }
h3 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
a { color: var(--accent); }
img { display: block; max-width: 100%; margin: 1.2rem auto; }
pre { font: 13.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-x: auto; padding: .8rem 1rem;
  border-radius: 6px; background: #f5f7f8; margin: .8rem 0; }
pre.printed { background: white; border: 1px solid var(--pale); }
pre.error { background: #fdf1ea; border: 1px solid #D55E00; }
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, monospace; background: #f5f7f8; padding: .1em .3em;
  border-radius: 3px; }
details summary { color: var(--muted); cursor: pointer; font-size: .85rem; }
.muted, nav small { color: var(--muted); }
nav ol { list-style: none; padding: 0; }
nav li { padding: .15rem 0; }
"""


@dataclass
class Lesson:
    """A lesson that ran."""

    name: str
    blocks: list[Block]
    seconds: float

    @property
    def title(self) -> str:
        """First line of the docstring."""
        return self.blocks[0].prose.splitlines()[0]

    @property
    def failed(self) -> bool:
        """Whether one of its blocks raised an error."""
        return any(block.error for block in self.blocks)


def html(lessons: Sequence[Lesson], quick: bool) -> str:
    """Return the page.

    Parameters
    ----------
    lessons : sequence of Lesson
        What ran.
    quick : bool
        Whether they ran in their reduced form, which the page then says.

    Returns
    -------
    page : str
        HTML that needs no other file.
    """
    ran = f"{len(lessons)} lessons in {sum(lesson.seconds for lesson in lessons):.0f} seconds"
    if quick:
        ran += ", in their reduced form: the numbers are worse than those of a full run"
    versions = f"fastmlp {fastmlp.__version__}, scikit-learn {sklearn.__version__}, NumPy {numpy.__version__}"
    links = "".join(
        f'<li><a href="#{lesson.name}">{inline(lesson.title)}</a> '
        f"<small>{lesson.seconds:.0f} s{', failed' * lesson.failed}</small></li>"
        for lesson in lessons
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>fastmlp: the lessons</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>The three steps of deep learning</h1><p>Define a set of functions, measure how good one of them is, "
        f'pick the best.</p><p class="muted">{ran}. {versions}, Python {platform.python_version()}, '
        f"{escape(platform.machine())}.</p><nav><ol>{links}</ol></nav>{''.join(map(_section, lessons))}</body></html>"
    )


def _section(lesson: Lesson) -> str:
    return f'<section id="{lesson.name}">{"".join(map(_block, lesson.blocks))}</section>'


def _block(block: Block) -> str:
    parts = [prose(block.prose)]
    if block.code:
        parts.append(f"<details><summary>code</summary><pre>{escape(block.code)}</pre></details>")
    if block.printed:
        parts.append(f'<pre class="printed">{escape(block.printed.rstrip())}</pre>')
    parts += map(_picture, block.pictures)
    if block.error:
        parts.append(f'<pre class="error">{escape(block.error)}</pre>')
    return "".join(parts)


def _picture(picture: str) -> str:
    width = (
        int.from_bytes(b64decode(picture[:32])[16:20], "big") * 96 // DOTS_PER_INCH
    )  # the same size of letters in all
    return f'<img alt="" width="{width}" src="data:image/png;base64,{picture}">'


def prose(text: str) -> str:
    """Return as HTML the little reStructuredText that lessons use.

    Titles, paragraphs, lists of ``-`` items, literal blocks after ``::``; see ``inline`` for what stands inside them.
    """
    parts = []
    for chunk in re.split(r"\n{2,}", text.strip()):
        lines = chunk.splitlines()
        if len(lines) > 1 and re.fullmatch(r"([=\-~^])\1{2,}", lines[1]):
            level = 2 if lines[1][0] == "=" else 3
            parts.append(f"<h{level}>{inline(lines[0])}</h{level}>")
            lines = lines[2:]
        if not lines:
            continue
        if all(line.startswith("    ") for line in lines):
            parts.append(f"<pre>{escape(chr(10).join(line[4:] for line in lines))}</pre>")
        elif lines[0].startswith("- "):
            items = re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE)[1:]
            parts.append("<ul>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ul>")
        else:
            parts.append(f"<p>{inline(chr(10).join(lines))}</p>")
    return "".join(parts)


def inline(text: str) -> str:
    """Return a piece of text as HTML: literals, roles, links, emphasis."""
    text = escape(text, quote=False).replace("::\n", ":\n")
    text = re.sub(r"::$", ":", text)
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", text)
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"<code>\1</code>", text)
    text = re.sub(r"`([^`<]+?)\s*&lt;(.+?)&gt;`_+", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<!\w)\*([^*\s](?:[^*]*[^*\s])?)\*(?!\w)", r"<em>\1</em>", text)
