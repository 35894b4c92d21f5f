"""What a model looks like in a line of text and in a notebook."""

import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastmlp import MLPClassifier, MLPRegressor, Network

X, y = load_iris(return_X_y=True)


def table(html):
    """Caption, and the cells of each row; HTML that is well-formed XML."""
    root = ET.fromstring(html)
    return root.find("caption").text, [[cell.text or "" for cell in row] for row in root.iter("tr")]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"layer_sizes": [2, 1]}, "2 -> 1 logistic"),
        ({"layer_sizes": [2, 4, 4, 3], "activation": ["tanh", "relu"]}, "2 -> 4 tanh -> 4 relu -> 3 logistic"),
        ({"layer_sizes": [2, 4, 4, 3], "activation": "relu"}, "2 -> 4 relu -> 4 relu -> 3 logistic"),
        (
            {"layer_sizes": [2, *[4] * 20, 3, 3], "activation": "relu", "normalization": ["rms_norm"] * 20 + [None]},
            "2 -> 20 x (4 rms_norm relu) -> 3 relu -> 3 logistic",
        ),
        ({"layer_sizes": [3, 3, 3, 3]}, "3 -> 3 logistic -> 3 logistic -> 3 logistic"),
        ({"layer_sizes": [3, 3, 3, 3, 3]}, "3 -> 3 x (3 logistic) -> 3 logistic"),
    ],
)
def test_a_line_of_text(settings, text):
    assert repr(Network(**settings, dtype="float32")) == f"Network({text}; loss='binary_log_loss', dtype='float32')"


def test_a_table_in_notebooks():
    net = Network(
        [2, 5, *[3] * 4, 1],
        "relu",
        "squared_error",
        normalization=["batch_norm", *[None] * 3, "layer_norm"],
        residual=True,
    )
    caption, rows = table(net._repr_html_())
    assert caption == "Network, loss squared_error, float64, residual"
    assert rows == [
        ["layer", "units", "activation", "normalization", "parameters"],
        ["input", "2", "", "", ""],
        ["1", "5", "relu", "batch_norm", str(2 * 5 + 5 + 4 * 5)],
        ["2", "3", "relu", "", str(5 * 3 + 3 + 5 * 3)],  # with a projection
        ["3", "3", "relu", "", "12"],
        ["4", "3", "relu", "", "12"],
        ["5", "3", "relu", "layer_norm", "18"],
        ["output", "1", "identity", "", "4"],
        ["all", "", "", "", str(net.n_parameters)],
    ]
    assert net.n_parameters == sum(int(row[4]) for row in rows[2:-1])


def test_layers_that_are_alike_are_one_row():
    rows = table(Network([64, *[32] * 6, 10], "gelu", "log_loss")._repr_html_())[1]
    assert [row[0] for row in rows] == ["layer", "input", "1", "2 - 6", "output", "all"]
    assert rows[3][4] == f"{5 * (32 * 32 + 32):,}" == "5,280"
    assert [row[0] for row in table(Network([3] * 5)._repr_html_())[1]] == ["layer", "input", "1 - 3", "output", "all"]


@pytest.mark.parametrize("target", [y, X[:, 0]])
def test_a_predictor(target):
    estimator = MLPClassifier if target is y else MLPRegressor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor = estimator(hidden_layer_sizes=(5,), max_iter=2).fit(X.astype(np.float32), target).compile()
    caption, rows = table(predictor._repr_html_())
    assert caption == f"Predictor, {'multiclass' if target is y else 'continuous'}, float32"
    assert rows[-2][:3] == (["output", "3", "softmax"] if target is y else ["output", "1", "identity"])


@pytest.mark.parametrize("fitted", [False, True])
def test_estimators_have_the_table_of_scikit_learn(fitted):
    """With our parameters, and no link to a page of scikit-learn that does not exist."""
    model = make_pipeline(StandardScaler(), MLPClassifier((7,), dropout=0.125, max_iter=2))
    html = (model.fit(X, y) if fitted else model)._repr_html_()
    assert ">MLPClassifier<" in html
    assert ">dropout<" in html
    assert ">0.125<" in html
    links = re.findall(r'href="(https?://[^"]*)"', html)
    assert not [link for link in links if "MLP" in link]
    assert not re.findall(r'href="', model[1]._repr_html_())
