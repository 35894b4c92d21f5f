"""Derive the constants of src/cpp/vector_math.hpp.

Each function is reduced to a short interval, where a polynomial takes over. The polynomial is the weighted
least-squares fit at Chebyshev nodes, in 60 digits, with the weight that makes its error a relative error of the
function. Coefficients are rounded to the target type one by one, from the constant upwards; those still free are
fitted again after each, so that they absorb the rounding.

    python tools/fit_vector_math.py              prints the constants as they stand in the header
    python tools/fit_vector_math.py HEADER       says which of them HEADER lacks; exit status 1 if any

Needs mpmath.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mpmath import mp, mpf

mp.dps = 60
Function = Callable[[mpf], mpf]

# The tail of the normal distribution at a = |x| is a polynomial in t = (a - CENTRE) / (a + CENTRE). Any centre from
# 3 to 5 needs the same degree; this one has leading coefficients that lie close to numbers of both types.
CENTRE = mpf("3.375")


class Format(NamedTuple):
    """A binary floating-point type and what was chosen for it."""

    name: str
    suffix: str  # of a C++ literal
    digits: int  # decimal digits that identify a number
    precision: int  # bits of the significand
    exponent: int  # the smallest normal number is 2^-exponent, the largest number just below 2^(exponent + 2)
    spare: int  # bits left free in ln2_high, so that its product with a binary exponent is exact
    degrees: tuple[int, int, int]  # of the polynomials of exp, log and the normal distribution


FORMATS = (
    Format("float", "f", 9, 24, 126, 8, (5, 8, 10)),
    Format("double", "", 17, 53, 1022, 11, (10, 20, 24)),
)


class Constant(NamedTuple):
    """A number, or the coefficients of a polynomial from the constant upwards, with the largest relative error."""

    name: str
    values: Sequence[mpf]
    log2_error: float | None = None


def rounded(x: mpf, precision: int, direction: str = "n") -> mpf:
    """Return x with ``precision`` significant bits, rounded to nearest ("n") or towards 0 ("d")."""
    return mp.fadd(x, 0, prec=precision, rounding=direction)


def literal(x: mpf, form: Format) -> str:
    """Return the shortest C++ literal that reads back as x, which must be a number of the type."""
    for digits in range(1, form.digits + 1):
        text = mp.nstr(x, digits, min_fixed=-6, max_fixed=25)
        if rounded(mpf(text), form.precision) == x:
            return text + form.suffix
    raise ValueError(f"{mp.nstr(x, 25)} is not a number of type {form.name}")


def nodes(low: mpf, high: mpf, count: int) -> list[mpf]:
    """Return Chebyshev nodes of [low, high]: dense at the ends, where a polynomial fit is worst."""
    return [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]


def fit(name: str, f: Function, weight: Function, interval: tuple[mpf, mpf], degree: int, precision: int) -> Constant:
    """Fit f on the interval by a polynomial with rounded coefficients; its errors count times ``weight``."""
    x = nodes(*interval, 4 * (degree + 1))
    w = [weight(xi) for xi in x]
    rest = [f(xi) for xi in x]
    coefficients: list[mpf] = []
    for power in range(degree + 1):
        powers = mp.matrix([[wi * xi**j for j in range(power, degree + 1)] for xi, wi in zip(x, w, strict=True)])
        values = mp.matrix([wi * ri for wi, ri in zip(w, rest, strict=True)])
        coefficients.append(rounded(mp.lu_solve(powers, values)[0], precision))
        rest = [ri - coefficients[-1] * xi**power for ri, xi in zip(rest, x, strict=True)]
    between = nodes(*interval, 25 * (degree + 1))
    error = max(abs(weight(xi) * (mp.polyval(coefficients[::-1], xi) - f(xi))) for xi in between)
    return Constant(name, coefficients, float(mp.log(error, 2)))


def thresholds(form: Format) -> list[Constant]:
    """Return the last arguments whose results are normal numbers."""
    smallest = mpf(2) ** -form.exponent
    largest = (1 - mpf(2) ** -form.precision) * mpf(2) ** (form.exponent + 2)
    guess = mp.sqrt(-2 * mp.log(smallest))
    exact = {
        "exp_low": mp.log(smallest),
        "exp_high": mp.log(largest),
        "cdf_end": mp.findroot(lambda a: mp.log(mp.ncdf(-a) / smallest), guess),
        "pdf_end": mp.sqrt(-2 * mp.log(smallest * mp.sqrt(2 * mp.pi))),
    }
    return [Constant(name, [rounded(x, form.precision, "d")]) for name, x in exact.items()]


def reductions(form: Format) -> list[Constant]:
    """Return the numbers that bring an argument into the interval of a polynomial."""
    ln2_high = rounded(mp.ln2, form.precision - form.spare)
    exact = {"log2_e": 1 / mp.ln2, "ln2_high": ln2_high, "ln2_low": mp.ln2 - ln2_high, "sqrt_half": mp.sqrt(0.5)}
    return [Constant(name, [rounded(x, form.precision)]) for name, x in exact.items()]


def scaled_tail(t: mpf) -> mpf:
    """Return (a + CENTRE) exp(a^2 / 2) Phi(-a) for t = (a - CENTRE) / (a + CENTRE)."""
    a = CENTRE * (1 + t) / (1 - t)
    return (a + CENTRE) * mp.exp(a * a / 2) * mp.ncdf(-a)


def polynomials(form: Format) -> list[Constant]:
    """Return the polynomials."""
    p = form.precision
    exp_end = mp.ln2 / 2 * mpf("1.001")  # a rounded x / ln 2 may lie just beyond the half
    log_ends = (mp.sqrt(0.5) - 1, mp.sqrt(2) - 1)
    cdf_end = mpf(38 if form.name == "double" else 14)
    t_end = (cdf_end - CENTRE) / (cdf_end + CENTRE)
    exp_degree, log_degree, cdf_degree = form.degrees
    tail = fit("tail", scaled_tail, lambda t: 1 / scaled_tail(t), (mpf(-1), t_end), cdf_degree, p)
    return [
        fit(
            "exp_rest",
            lambda r: (mp.expm1(r) - r) / r**2,
            lambda r: r**2 / mp.expm1(r),
            (-exp_end, exp_end),
            exp_degree,
            p,
        ),
        fit("log_rest", lambda f: (mp.log1p(f) - f) / f**2, lambda f: f**2 / mp.log1p(f), log_ends, log_degree, p),
        Constant("tail_centre", [CENTRE]),
        Constant("tail_middle", tail.values[:1]),
        Constant("tail_slope", tail.values[1:], tail.log2_error),
    ]


def power_series(form: Format) -> list[Constant]:
    """Return the first terms of the integral of the normal density and of the density itself."""
    peak = 1 / mp.sqrt(2 * mp.pi)
    return [
        Constant("cdf_series", [rounded(peak * (-1) ** k / mp.factorial(k + 1), form.precision) for k in range(4)]),
        Constant("pdf_series", [rounded(peak / mp.factorial(k), form.precision) for k in range(5)]),
    ]


def constants(form: Format) -> list[Constant]:
    """Return all constants of a type; the header rounds the power series of double for float."""
    series = power_series(form) if form.name == "double" else []
    return reductions(form) + thresholds(form) + polynomials(form) + series


def main(arguments: list[str]) -> int:
    """Print all constants, or compare them with a header."""
    header = set(re.findall(r"[\d.]+(?:e-?\d+)?f?", Path(arguments[0]).read_text())) if arguments else None
    missing = 0
    for form in FORMATS:
        for name, values, log2_error in constants(form):
            texts = [literal(x, form) for x in values]
            if header is None:
                note = "" if log2_error is None else f"  // relative error 2^{log2_error:.1f}"
                print(f"{form.name} {name} = {', '.join(texts)}{note}")
            elif absent := [text for text in texts if text.lstrip("-") not in header]:
                missing += len(absent)
                print(f"{arguments[0]} lacks {form.name} {name}: {', '.join(absent)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
