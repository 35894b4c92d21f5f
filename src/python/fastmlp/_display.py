"""How a network shows itself: one line of text, and a table in notebooks. Layers that are alike are told once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from fastmlp._parameters import array_shapes

if TYPE_CHECKING:
    from fastmlp import _core

_MANY = 3  # layers that are alike, from which on they are counted


class _Layer(NamedTuple):
    units: int
    normalization: str
    activation: str
    n_parameters: int


def layers_text(network: _core.Network, output_activation: str) -> str:
    """Return the layers in a line, such as ``64 -> 20 x (32 layer_norm relu) -> 10 softmax``."""
    steps = [str(network.layer_sizes[0])]
    for layer, first, last in _runs(_layers(network, output_activation), lambda layer: layer[:3]):
        step = " ".join(str(part) for part in layer[:3] if part)
        steps.append(step if first == last else f"{last - first + 1} x ({step})")
    return " -> ".join(steps)


def layers_html(title: str, network: _core.Network, output_activation: str) -> str:
    """Return a table of the layers: their units, activation, normalisation and number of parameters."""
    rows = [_row("td", "input", network.layer_sizes[0], "", "", "")]
    for layer, first, last in _runs(_layers(network, output_activation), lambda layer: layer):
        number = "output" if last == len(network.layer_sizes) - 1 else f"{first} - {last}" if first < last else first
        count = f"{(last - first + 1) * layer.n_parameters:,}"
        rows.append(_row("td", number, layer.units, layer.activation, layer.normalization, count))
    head = _row("th", "layer", "units", "activation", "normalization", "parameters")
    foot = _row("th", "all", "", "", "", f"{network.n_parameters:,}")
    body = f"<thead>{head}</thead><tbody>{''.join(rows)}</tbody><tfoot>{foot}</tfoot>"
    return f'<table><caption style="white-space: nowrap">{escape(title)}</caption>{body}</table>'


def _runs(layers: list[_Layer], key: Callable[[_Layer], object]) -> Iterator[tuple[_Layer, int, int]]:
    """Yield layers with the numbers of the first and the last that are alike; the output stays by itself."""
    first = 1
    for _, alike in groupby(layers[:-1], key):
        run = list(alike)
        step = len(run) if len(run) >= _MANY else 1
        for layer in run[::step]:
            yield layer, first, first + step - 1
            first += step
    yield layers[-1], first, first


def _layers(network: _core.Network, output_activation: str) -> list[_Layer]:
    """Return all layers but the input."""
    shapes, sizes = array_shapes(network), network.layer_sizes
    norms = ["" if name == "none" else name for name in network.normalizations]
    counts = [0] * (len(sizes) - 1)
    for of_layers in shapes.values():
        for layer, shape in enumerate(of_layers):
            counts[layer] += 0 if shape is None else math.prod(shape)
    return [*map(_Layer, sizes[1:], [*norms, ""], [*network.activations, output_activation], counts)]


def _row(cell: str, *values: object) -> str:
    return f"<tr>{''.join(f'<{cell}>{value}</{cell}>' for value in values)}</tr>"
