"""Pieces of C99 text: comments, tables of numbers and labels, activations."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import numpy as np

from fastmlp.export._functions import C_PARTS, Function

_WORDS = (
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"
)
C_KEYWORDS = frozenset(_WORDS.split())


def comment(lines: list[str]) -> str:
    """Return lines as a comment; characters that could end it, or that not every compiler reads, become ``_``."""
    safe = (re.sub(r"[^ -)+->@-\[\]-~]", "_", line) for line in lines)
    return "\n".join(line.rstrip() for line in ["/*", *(f" * {line}" for line in safe), " */"])


def array_source(kind: str, name: str, values: Any) -> str:
    """Return a table of numbers: float32 with 9 digits, which give back every float, or integers."""
    flat = np.ravel(values)
    texts = [_float(value) for value in flat] if kind == "float" else [str(value) for value in flat]
    return _table(f"static const {kind} {name}[{len(flat)}]", texts)


def part_source(name: str, part: str) -> str:
    """Return the function for a part that activations need."""
    return f"static float {name}_{part}(float z) {{\n  {C_PARTS[part]}\n}}"


def row_source(name: str, what: str, body: str) -> str:
    """Return the function for something that is done to all n numbers z of a row; empty for nothing."""
    return f"static void {name}_{what}(float *z, int n) {{\n  {body}\n}}" if body else ""


def activation_source(name: str, activation: str, entry: Function) -> str:
    """Return the functions for one activation; empty for the identity."""
    if entry.c_row:
        return row_source(name, activation, entry.c_row)
    body = entry.c.format(**{part: f"{name}_{part}" for part in C_PARTS})
    if not body:
        return ""
    return f"""static float {name}_{activation}_of(float z) {{
  {body}
}}

static void {name}_{activation}(float *z, int n) {{
  int k;
  for (k = 0; k < n; ++k) z[k] = {name}_{activation}_of(z[k]);
}}"""


def label_declarations(classes: Any, multilabel: bool, name: str) -> str:
    """Return the declarations, with comments, of the functions that turn a row into labels."""
    if multilabel:
        return f"""/* labels: room for {name}_n_outputs numbers: 1 where a label is more probable than 0.5, else 0 */
void {name}_labels(const float *x, int *labels);"""
    return f"""/* the number of the most probable class: its place among the outputs */
int {name}_class(const float *x);

/* the label of that class */
{_labels(classes)[0]}{name}_label(const float *x);"""


def label_source(classes: Any, multilabel: bool, name: str) -> str:
    """Return these functions."""
    if multilabel:
        return f"""void {name}_labels(const float *x, int *labels) {{
  float out[{name}_n_outputs];
  int k;
  {name}_predict(x, out);
  for (k = 0; k < {name}_n_outputs; ++k) labels[k] = out[k] > 0.5f;
}}"""
    kind, texts = _labels(np.resize(classes, max(len(classes), 2)))  # a single class has two columns, as in Python
    constant = f"{kind}const " if kind.endswith("*") else f"const {kind}"
    return f"""int {name}_class(const float *x) {{
  float out[{name}_n_outputs];
  int k, best = 0;
  {name}_predict(x, out);
  for (k = 1; k < {name}_n_outputs; ++k) best = out[k] > out[best] ? k : best;
  return best;
}}

{_table(f"static {constant}{name}_classes[{len(texts)}]", texts)}

{kind}{name}_label(const float *x) {{
  return {name}_classes[{name}_class(x)];
}}"""


def _labels(classes: Any) -> tuple[str, list[str]]:
    """Return the type of labels, as it stands before a name, and their texts."""
    if all(isinstance(label, str) for label in classes):
        return "const char *", [_string(label) for label in classes]
    if classes.dtype.kind == "b":
        return "int ", [str(int(label)) for label in classes]
    if classes.dtype.kind in "iu":
        return "long long ", [_integer(int(label)) for label in classes]
    if classes.dtype.kind == "f":
        return "double ", [repr(float(label)) for label in classes]
    raise TypeError(f"class labels must be integers, floats, bools or strings, got {classes.dtype}: {classes}")


def _integer(value: int) -> str:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"class label {value} does not fit into 64 bits")
    return f"{value}LL" if value > -(2**63) else f"({value + 1}LL - 1)"  # C has no negative literals


def _string(text: str) -> str:
    """Return a C string of the UTF-8 bytes; octal, as digits may follow. ``?`` could begin a trigraph."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _float(value: Any) -> str:
    text = f"{value:.9g}"
    return text + ("f" if re.search(r"[.e]", text) else ".0f")


def _table(start: str, texts: list[str]) -> str:
    # a string label may hold spaces, so that lines are broken between items only
    glued = [text.replace(" ", "\0") for text in texts]
    body = textwrap.fill(", ".join(glued), 100, break_long_words=False, break_on_hyphens=False)
    return f"{start} = {{\n{textwrap.indent(body, '  ')}\n}};".replace("\0", " ")
