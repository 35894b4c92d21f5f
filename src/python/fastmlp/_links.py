"""Derivatives of links: of what a loss makes of the sums of the last layer. A new output activation goes here too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Link:
    """What a loss makes of the sums z (n, m) of the last layer, and its derivatives."""

    def __init__(self, network: _core.Network, z: NDArray[Any]) -> None:
        self.z = z
        self.per_target = _core.loss_outputs(network.loss, network.loss_parameters)[0]
        targets = np.ones((len(z), z.shape[1] // self.per_target), z.dtype)
        self.outputs = _core.apply_loss(network.loss, z, targets, network.loss_parameters)[0]
        self.name: str = _core.losses()[network.loss]["link"]

    def one_hot(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the gradients (n, q, m) of chosen sums (n, q) by all of them."""
        hot: NDArray[Any] = np.eye(self.z.shape[1], dtype=self.z.dtype)[chosen]
        return hot

    def gradients(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the gradients (n, q, m) of chosen outputs (n, q) by the sums.

        Raises
        ------
        NotImplementedError
            For a link that is not known here.
        """
        if self.name == "sort":
            return self.one_hot(self._before_sorting(chosen))
        hot = self.one_hot(chosen)
        if self.name in ("softmax", "logistic", "exp"):
            values = np.take_along_axis(self.outputs, chosen, axis=1)
            hot = values[:, :, np.newaxis] * self.gradients_of_logarithms(chosen)
        elif self.name == "mean_variance":  # by turns; the variance is an exponential, and a constant
            hot = np.where(chosen[:, :, np.newaxis] % 2 == 0, hot, hot * np.exp(self.z[:, np.newaxis]))
        elif self.name != "identity":
            raise NotImplementedError(f"the derivative of the output activation {self.name!r} is not known")
        return hot

    def gradients_of_logarithms(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return the same for the logarithms of outputs that are above 0: without cancellation where one is near 1."""
        hot = self.one_hot(chosen)
        if self.name == "logistic":
            hot *= _logistic(-self.z)[:, np.newaxis]
        elif self.name == "softmax":
            others = self.outputs[:, np.newaxis] * (1 - hot)
            hot = hot * others.sum(axis=2, keepdims=True) - others
        return hot

    def _before_sorting(self, chosen: NDArray[Any]) -> NDArray[Any]:
        """Return which sums the chosen outputs were before each target's were sorted."""
        order = np.argsort(self.z.reshape(len(self.z), -1, self.per_target), axis=2, kind="stable")
        order += np.arange(0, self.z.shape[1], self.per_target)[:, np.newaxis]
        before: NDArray[Any] = np.take_along_axis(order.reshape(self.z.shape), chosen, axis=1)
        return before


def gradients_of_two_classes(z: NDArray[Any], chosen: NDArray[Any], method: str) -> NDArray[Any]:
    """Return the gradients (n, q, 1) of what one logistic output says of the first class (0) or the second (1)."""
    sign = (2 * chosen - 1).astype(z.dtype)
    if method != "decision_function":
        score = sign * z
        sign *= _logistic(-score)
        if method == "predict_proba":
            sign *= _logistic(score)
    return sign[:, :, np.newaxis]


def _logistic(z: NDArray[Any]) -> NDArray[Any]:
    return _core.apply_activation("logistic", np.ascontiguousarray(z).ravel())[0].reshape(z.shape)
