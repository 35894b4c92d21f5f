"""Make the golden files: ``python tests/golden/make.py``. Run it only when a change of numerics is wanted.

Each file holds a small problem, the parameters of an estimator and what fitting it gives in float64: by scikit-learn
where it can, else by the oracle, ``tests/reference.py``. fastmlp itself has no part in it.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import reference  # noqa: E402

SHARED = {"hidden_layer_sizes": [4, 3], "batch_size": 10, "max_iter": 8, "alpha": 0.01, "random_state": 7}
ADAM = {"solver": "adam", "learning_rate_init": 0.01}
SGD = {"solver": "sgd", "learning_rate_init": 0.05}

# name -> (estimator, targets, parameters)
BY_SCIKIT_LEARN = {
    "three_classes": (MLPClassifier, "classes", {"activation": "relu", **ADAM}),
    "two_classes": (MLPClassifier, "binary", {"activation": "logistic", **SGD, "nesterovs_momentum": False}),
    "many_labels": (MLPClassifier, "labels", {"activation": "tanh", **SGD, "learning_rate": "invscaling"}),
    "early_stopping": (MLPClassifier, "classes", {"activation": "tanh", **ADAM, "early_stopping": True}),
    "two_targets": (
        MLPRegressor,
        "reals",
        {"activation": "tanh", **SGD, "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    ),
    "counts": (MLPRegressor, "counts", {"activation": "identity", "loss": "poisson", **ADAM, "shuffle": False}),
    "no_hidden_layer": (MLPRegressor, "real", {"hidden_layer_sizes": [], **ADAM}),
}
BY_THE_ORACLE = sorted(reference.ACTIVATIONS.keys() - {"identity", "logistic", "tanh", "relu"})


def problem(targets):
    random = np.random.RandomState(1)
    X, noise = random.randn(33, 3).round(3), random.randn(33, 2)
    signal = X @ [[1, -1], [0.5, 2], [-2, 0]] + 0.3 * noise
    y = {
        "classes": (signal[:, 0] > -1).astype(int) + (signal[:, 0] > 1),
        "binary": (signal[:, 0] > 0).astype(int),
        "labels": (signal > 0).astype(int),
        "reals": signal.round(3),
        "real": signal[:, 0].round(3),
        "counts": random.poisson(np.exp(signal[:, 0] / 3)),
    }[targets]
    return X, y, (random.rand(33) + 0.5).round(3)


def by_scikit_learn(estimator, targets, parameters):
    X, y, weights = problem(targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = estimator(**parameters).fit(X, y, sample_weight=weights)
    return {
        "produced_by": f"scikit-learn {sklearn.__version__}",
        "loss_curve": model.loss_curve_,
        "validation_scores": model.validation_scores_,
        "parameters_flat": reference.pack(model.coefs_, model.intercepts_).tolist(),
    }


def by_the_oracle(parameters):
    X, y, weights = problem("classes")
    net = reference.Net((3, *parameters["hidden_layer_sizes"], 3), (parameters["activation"],) * 2, "log_loss")
    random = np.random.RandomState(parameters["random_state"])
    flat = reference.glorot(net, random)

    def step(t, *state):
        reference.adam({"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}, parameters["learning_rate_init"], t, *state)

    options = {name: parameters[name] for name in ("alpha", "batch_size", "max_iter")}
    slots = [np.zeros_like(flat), np.zeros_like(flat)]
    curve = reference.train(net, flat, slots, X, np.eye(3)[y], step, sample_weight=weights, random=random, **options)
    return {
        "produced_by": "tests/reference.py",
        "loss_curve": curve,
        "validation_scores": None,
        "parameters_flat": flat.tolist(),
    }


def write(name, estimator, targets, parameters, results):
    X, y, weights = problem(targets)
    content = {
        "estimator": estimator.__name__,
        "parameters": parameters,
        "X": X.tolist(),
        "y": y.tolist(),
        "sample_weight": weights.tolist(),
        **results,
    }
    lines = (f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    for name, (estimator, targets, parameters) in BY_SCIKIT_LEARN.items():
        parameters = {**SHARED, **parameters}
        write(name, estimator, targets, parameters, by_scikit_learn(estimator, targets, parameters))
    for activation in BY_THE_ORACLE:
        parameters = {**SHARED, **ADAM, "activation": activation}
        write(activation, MLPClassifier, "classes", parameters, by_the_oracle(parameters))


if __name__ == "__main__":
    main()
