"""Very deep networks: plain ones learn nothing, residual and normalised ones of the same depth do."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier

DEPTH = 60  # hidden layers of 24 units


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split((X / 16).astype(np.float32), y, stratify=y, random_state=0)


def score_of(digits, **settings):
    X, X_test, y, y_test = digits
    model = MLPClassifier(f"24x{DEPTH}", max_iter=30, batch_size=64, random_state=0, **settings)
    return model.fit(X, y).score(X_test, y_test)


@pytest.mark.parametrize("activation", ["logistic", "relu"])
def test_plain_layers_stay_near_chance(digits, activation):
    assert score_of(digits, activation=activation) < 0.2


@pytest.mark.parametrize("normalization", ["layer_norm", "rms_norm"])
def test_residual_normalised_layers_learn(digits, normalization):
    assert score_of(digits, residual=True, normalization=normalization) > 0.85
