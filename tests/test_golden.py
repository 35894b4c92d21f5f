"""Fits whose outcome was written down once: a silent change of numerics is noticed. See ``golden/make.py``."""

import json
from pathlib import Path

import numpy as np
import pytest
import reference

import fastmlp

FILES = sorted((Path(__file__).parent / "golden").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_fit_is_as_it_was(path):
    golden = json.loads(path.read_text())
    X, y, weights = (np.array(golden[name]) for name in ("X", "y", "sample_weight"))
    model = getattr(fastmlp, golden["estimator"])(**golden["parameters"]).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(model.loss_curve_, golden["loss_curve"], rtol=1e-7)
    flat = reference.pack(model.coefs_, model.intercepts_)
    np.testing.assert_allclose(flat, golden["parameters_flat"], rtol=1e-7, atol=1e-9)
    if golden["validation_scores"] is None:
        assert model.validation_scores_ is None
    else:
        np.testing.assert_allclose(model.validation_scores_, golden["validation_scores"], rtol=1e-7)


def test_every_activation_has_a_golden_file(activation, has_formula):
    has_formula(activation)
    assert activation in {json.loads(path.read_text())["parameters"].get("activation") for path in FILES}


def test_golden_files_are_of_use():
    """The fits went somewhere: the loss fell, and none of the curves is another one's."""
    curves = [json.loads(path.read_text())["loss_curve"] for path in FILES]
    assert all(curve[-1] < curve[0] for curve in curves)
    assert len({curve[-1] for curve in curves}) == len(curves) >= 14
