"""``python -m fastmlp``: learn to read 1,797 real handwritten digits, beside scikit-learn, and draw the result."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastmlp
from fastmlp import _digits

REPEATS = 3
PICTURE_FORMATS = (".pdf", ".png", ".svg")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstration; ``arguments`` stand for the command line's."""
    from sklearn.exceptions import ConvergenceWarning

    options = parse(arguments)
    # Both libraries would warn that --max-iter was reached; the table below says so once, for both.
    warnings.simplefilter("ignore", ConvergenceWarning)
    split = _digits.load_split(options.seed, options.dtype)
    print(f"fastmlp {fastmlp.__version__} on the digits that scikit-learn carries")
    print(describe(options, split))

    models = make_models(options)
    _digits.fit_with_progress(models["fastmlp"], split)
    seconds = _digits.time_alternating(list(models.values()), split, REPEATS)
    report(models, seconds, split)
    if not options.no_plot:
        save_picture(options, models, seconds, split)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fastmlp", description="Learn to read real handwritten digits, beside scikit-learn, and draw it."
    )
    add = parser.add_argument
    add("--output", type=picture_path, default=Path("fastmlp_digits.png"), help="the picture's file (%(default)s)")
    add("--max-iter", type=integer_from(1), default=200, help="epochs at most (%(default)s)")
    add("--hidden", type=integer_from(1), nargs="*", default=[100], metavar="N", help="hidden layer sizes (100)")
    add("--dtype", choices=("float64", "float32"), default="float64", help="precision (%(default)s)")
    add("--seed", type=integer_from(0), default=0, help="of the split, the weights and the shuffles (%(default)s)")
    add("--no-compare", action="store_true", help="do not train scikit-learn's classifier as well")
    add("--no-plot", action="store_true", help="print the numbers only")
    return parser.parse_args(arguments)


def integer_from(minimum: int) -> Callable[[str], int]:
    """Return argparse's type of the integers that are not smaller than ``minimum``."""

    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer >= {minimum}")
        return int(text)

    return integer


def picture_path(text: str) -> Path:
    """Parse the picture's path, so that a wrong one fails before the training and not after it."""
    path = Path(text)
    if path.suffix.lower() not in PICTURE_FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} must end with one of {', '.join(PICTURE_FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {str(path.parent)!r} does not exist")
    return path


def describe(options: argparse.Namespace, split: _digits.Split) -> str:
    """Say in one line what is trained on what."""
    layers = " - ".join(str(size) for size in (64, *options.hidden, 10))
    n_train, n_test = len(split.y_train), len(split.y_test)
    return f"network {layers}, relu, adam, {options.dtype}; {n_train:,} digits to learn, {n_test} to test"


def make_models(options: argparse.Namespace) -> dict[str, Any]:
    """Return fastmlp's classifier and, unless told not to, scikit-learn's with the same parameters."""
    from sklearn.neural_network import MLPClassifier

    classes = {"fastmlp": fastmlp.MLPClassifier}
    if not options.no_compare:
        classes["scikit-learn"] = MLPClassifier
    parameters = {
        "hidden_layer_sizes": tuple(options.hidden),
        "max_iter": options.max_iter,
        "random_state": options.seed,
    }
    return {name: make(**parameters) for name, make in classes.items()}


def report(models: dict[str, Any], seconds: Sequence[float], split: _digits.Split) -> None:
    """Print the table: one column a library."""
    fitted = list(models.values())
    scores = [model.score(split.X_test, split.y_test) for model in fitted]
    n_test = len(split.y_test)
    rows = {
        "test accuracy": [f"{score:.4f}" for score in scores],
        f"mistakes in {n_test} digits": [str(round((1 - score) * n_test)) for score in scores],
        "training loss": [f"{model.loss_:.6f}" for model in fitted],
        "epochs": [f"{model.n_iter_} of {model.max_iter}" for model in fitted],
        f"seconds, median of {REPEATS}": [f"{value:.4f}" for value in seconds],
    }
    print()
    for label, cells in {"": list(models), **rows}.items():
        print(f"{label:<24}" + "".join(f"{cell:>16}" for cell in cells))
    if len(fitted) == 2:
        ours, theirs = (model.loss_curve_ for model in fitted)
        print(f"\nfastmlp trained {seconds[1] / seconds[0]:.1f} times as fast as scikit-learn;")
        print(f"their loss curves differ by a relative {_digits.largest_difference(ours, theirs):.1e} at most.")


def save_picture(
    options: argparse.Namespace, models: dict[str, Any], seconds: Sequence[float], split: _digits.Split
) -> None:
    """Draw the picture, or say how to get the library that draws."""
    from fastmlp import _digits_picture

    X, y = split.X_test, split.y_test
    runs = [
        _digits_picture.Run(name, model.loss_curve_, time, model.score(X, y))
        for (name, model), time in zip(models.items(), seconds, strict=True)
    ]
    confidences = models["fastmlp"].predict_proba(X)
    try:
        _digits_picture.draw(options.output, runs, X, y, confidences, describe(options, split))
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        print('\nNo picture: matplotlib is not installed. Get it with: pip install "fastmlp[plot]"')
        return
    print(f"\npicture: {options.output}")


if __name__ == "__main__":
    main()
