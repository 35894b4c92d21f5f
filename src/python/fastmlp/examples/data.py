"""Handwritten digits of 16 x 16 pixels for the lessons: where they come from, in what form.

The folder that the environment variable ``FASTMLP_DATA`` names, if it is set; else OpenML, if there is a network. Where
neither is at hand, and in quick runs, the digits that scikit-learn carries stand in, enlarged; a line says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp.examples import quick

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 16
# Digits of each class, 0 to 9: what tells the sets, and the order of their rows, from others of the same name.
SEMEION_COUNTS = [161, 162, 159, 159, 161, 159, 161, 158, 155, 158]
USPS_TRAIN_COUNTS = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]


class Split(NamedTuple):
    """Images as rows of 256 numbers, 0 (paper) to 1 (ink), float32; labels 0 to 9."""

    X_train: NDArray[Any]
    X_test: NDArray[Any]
    y_train: NDArray[Any]
    y_test: NDArray[Any]


def semeion() -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the 1,593 digits of Semeion, written by about 80 people: ink is 1, paper 0.

    Returns
    -------
    X : ndarray of shape (n_images, 256), float32
        Images row by row, left to right and top to bottom.
    y : ndarray of shape (n_images,), int64
        Which digit it is.

    Raises
    ------
    FileNotFoundError
        If ``FASTMLP_DATA`` is set and its folder has no ``semeion.csv.gz``.
    ValueError
        If what is found is not Semeion.

    References
    ----------
    Semeion Research Center of Sciences of Communication (1994). Semeion Handwritten Digit. UCI Machine Learning
    Repository, https://doi.org/10.24432/C5SC8V.
    """
    if (path := _file("semeion.csv.gz")) is not None:
        table = np.loadtxt(path, delimiter=",", skiprows=1, dtype=np.float32)
        X, y = table[:, :-1], table[:, -1].astype(np.int64)
    elif (found := _openml(1501)) is not None:
        X, y = found
    else:
        X, y = _bundled("Semeion")
        return (X > 0.45).astype(np.float32), y
    _check("Semeion", X, y, SEMEION_COUNTS)
    return X, y


def usps() -> Split:
    """Return the digits of the US Postal Service: 7,291 to learn and 2,007 to test, as they have always been split.

    Returns
    -------
    split : Split
        ``X_train``, ``X_test``, ``y_train``, ``y_test``.

    Raises
    ------
    FileNotFoundError
        If ``FASTMLP_DATA`` is set and its folder has no ``usps.npz``.
    ValueError
        If what is found is not USPS, or in another order.

    References
    ----------
    Hull, J. J. (1994). A database for handwritten text recognition research. IEEE Transactions on Pattern Analysis and
    Machine Intelligence 16(5), 550-554.
    """
    n_train = sum(USPS_TRAIN_COUNTS)
    if (path := _file("usps.npz")) is not None:
        with np.load(path) as arrays:
            X = np.concatenate([arrays["X_train"], arrays["X_test"]]).reshape(-1, SIDE * SIDE)
            y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
        X = (X / np.float32(2000)).astype(np.float32)
    elif (found := _openml(41082)) is not None:
        X, y = found
    else:
        X, y = _bundled("USPS")
        n_train = 1347
        return Split(X[:n_train], X[n_train:], y[:n_train], y[n_train:])
    _check("USPS", X[:n_train], y[:n_train], USPS_TRAIN_COUNTS)
    return Split(X[:n_train], X[n_train:], y[:n_train], y[n_train:])


def _file(name: str) -> Path | None:
    folder = os.environ.get("FASTMLP_DATA")
    if not folder:
        return None
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(f"FASTMLP_DATA names the folder {folder!r}, which has no file {name}")
    return path


def _openml(data_id: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return a set of OpenML with its smallest pixel as 0, its largest as 1 and its first class as 0, or None."""
    from sklearn.datasets import fetch_openml

    if quick():
        return None
    try:
        found = fetch_openml(data_id=data_id, as_frame=False, parser="liac-arff", n_retries=1, delay=0.1)
    except OSError as error:
        print(f"OpenML cannot be reached ({error}).")
        return None
    X, y = found.data.astype(np.float32), found.target.astype(np.int64)
    return (X - X.min()) / (X.max() - X.min()), y - y.min()


def _bundled(instead_of: str) -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits

    print(f"{instead_of} is not at hand: these are scikit-learn's 1,797 digits, enlarged from 8 x 8 to 16 x 16 pixels.")
    X, y = load_digits(return_X_y=True)
    to = np.clip((np.arange(SIDE) - 0.5) / 2, 0, 7)  # where the centres of the new pixels lie among the old ones
    low = np.minimum(to.astype(int), 6)
    enlarge = np.zeros((SIDE, 8))  # linear interpolation, a matrix
    enlarge[np.arange(SIDE), low] = 1 - (to - low)
    enlarge[np.arange(SIDE), low + 1] = to - low
    images = enlarge @ (X / 16).reshape(-1, 8, 8) @ enlarge.T
    return images.reshape(-1, SIDE * SIDE).astype(np.float32), y


def _check(name: str, X: NDArray[Any], y: NDArray[Any], counts: list[int]) -> None:
    if X.shape != (sum(counts), SIDE * SIDE) or np.bincount(y, minlength=10).tolist() != counts:
        raise ValueError(
            f"{name} must have {sum(counts)} images of {SIDE * SIDE} pixels, {counts} of each digit; "
            f"got shape {X.shape} and {np.bincount(y, minlength=10).tolist()}"
        )
