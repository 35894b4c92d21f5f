"""Labels of classifiers: which there are, and their numbers. Plain ones need less than scikit-learn's three looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import unique_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray


def label_binarizer(y: NDArray[Any]) -> LabelBinarizer:
    """Return ``LabelBinarizer().fit(y)``: for repeated integers and strings without its three looks at every label."""
    binarizer = LabelBinarizer()
    classes = _plain_classes(y)
    if classes is None:
        return binarizer.fit(y)
    binarizer.y_type_ = "multiclass" if len(classes) > 2 else "binary"
    binarizer.sparse_input_, binarizer.classes_ = False, classes
    return binarizer


def distinct_labels(y: NDArray[Any]) -> NDArray[Any]:
    """Return scikit-learn's ``unique_labels(y)``, which looks at every label twice."""
    classes = _plain_classes(y)
    return np.asarray(unique_labels(y)) if classes is None else classes


def _plain_classes(y: NDArray[Any]) -> NDArray[Any] | None:
    """Return the sorted classes of repeated integers and strings; None for labels that scikit-learn must look at."""
    if y.ndim != 1 or y.dtype.kind not in "biuU":
        return None
    classes = _distinct(y)
    return classes if len(classes) <= len(y) / 2 else None  # it warns of more


def _distinct(y: NDArray[Any]) -> NDArray[Any]:
    """Return ``numpy.unique(y)``: of integers close together by counting, which is quicker."""
    if y.dtype.kind in "iu" and len(y) > 0:
        low, high = int(y.min()), int(y.max())
        if high - low <= 1:
            return np.array([low, high][: 1 + high - low], y.dtype)
        if high - low < len(y) and high < 2**62:
            return (np.flatnonzero(np.bincount(y.astype(np.int64) - low)) + low).astype(y.dtype)
    distinct: NDArray[Any] = np.unique(y)
    return distinct


def class_numbers(classes: NDArray[Any], y: NDArray[Any]) -> NDArray[np.int32]:
    """Return where the labels stand among the sorted classes: at once if these are consecutive integers."""
    integers = classes.dtype == y.dtype and y.dtype.kind in "iu"
    if integers and int(classes[-1]) - int(classes[0]) == len(classes) - 1:
        numbers: NDArray[Any] = y.astype(np.int64) - classes[:1].astype(np.int64)  # small numbers overflow, these wrap
    else:
        numbers = np.searchsorted(classes, y)
    return numbers.astype(np.int32)
