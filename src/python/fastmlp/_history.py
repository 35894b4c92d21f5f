"""The part of an estimator that remembers its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class History:
    """Curves with a number for each epoch. That of the loss is ``loss_curve_``, as in scikit-learn."""

    loss_curve_: list[float]
    validation_scores_: list[float] | None
    _history: dict[str, list[float]]

    @property
    def history_(self) -> dict[str, NDArray[np.float64]]:
        """Losses, learning rates and validation metrics of all epochs; NaN where one was not measured.

        ``pandas.DataFrame(model.history_)`` has a row for each epoch.
        """
        return {name: np.array(values) for name, values in self._curves().items()}

    @property
    def best_iteration_(self) -> int | None:
        """With early stopping: the epoch, from 1, with the best validation score; the first of equal ones."""
        scores = self.validation_scores_
        return int(np.nanargmax(scores)) + 1 if scores and not np.isnan(scores).all() else None

    def _curves(self) -> dict[str, list[float]]:
        return {"loss": self.loss_curve_, **getattr(self, "_history", {})}  # older pickles have no more

    def _set_curves(self, curves: Mapping[str, list[float]]) -> None:
        self.loss_curve_ = curves["loss"]
        self._history = {name: values for name, values in curves.items() if name != "loss"}

    def _extend_history(self, news: Mapping[str, list[float]]) -> None:
        """Append numbers of further epochs."""
        before, after = len(self.loss_curve_), len(self.loss_curve_) + len(news["loss"])
        self.loss_curve_ += news["loss"]
        if not hasattr(self, "_history"):
            self._history = {}
        for name in [*self._history, *(name for name in news if name != "loss" and name not in self._history)]:
            values = self._history.setdefault(name, [np.nan] * before)
            values += news.get(name, [])
            values += [np.nan] * (after - len(values))
