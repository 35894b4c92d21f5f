"""Make the golden model files of the current format: ``python tests/golden/make_files.py``.

Run it once for each new format version, and keep the files of old ones for ever: they are how we know that a model
saved years ago can still be read. ``version_N_answers.safetensors`` holds data, and what the models answered when
their files were made.
"""

from pathlib import Path

import numpy as np
import safetensors.numpy

from fastmlp import MLPClassifier, MLPRegressor
from fastmlp.files import FORMAT_VERSION

HERE = Path(__file__).parent


def models():
    """A model for each kind of target; together they use every part of a file."""
    random = np.random.RandomState(0)
    X = random.randn(40, 3)
    signal = X @ random.randn(3, 2) + 0.1 * random.randn(40, 2)
    labels = np.array(["low", "middle", "high"])[(signal > 0).sum(axis=1)]
    settings = {"hidden_layer_sizes": (4, 2), "activation": ["tanh", "softplus"], "max_iter": 20, "batch_size": 10}
    settings |= {"normalization": ["layer_norm", "rms_norm"], "residual": True}  # what version 1 cannot describe
    averaging = settings | {"normalization": ["batch_norm", None], "dropout": 0.2}
    classifier = MLPClassifier(**averaging, n_iter_no_change=np.inf, random_state=np.random.RandomState(1))
    classifier.fit(X, labels)
    classifier.feature_names_in_ = np.array(["length", "breadth", "height"], dtype=object)
    two = MLPClassifier(**settings, solver="lbfgs", random_state=2).fit(X, signal[:, 0] > 0)
    many = MLPClassifier((5,), solver="sgd", normalization="batch_norm", max_iter=20, random_state=3)
    many.fit(X, (signal > 0).astype(int))
    regressor = MLPRegressor("squared_error", **settings, solver="sgd", early_stopping=True, random_state=4)
    regressor.fit(X.astype(np.float32), signal)
    return X, {"three_classes": classifier, "two_classes": two, "many_labels": many, "two_numbers": regressor}


def main():
    X, made = models()
    answers = {"X": X}
    for name, model in made.items():
        model.save(HERE / f"version_{FORMAT_VERSION}_{name}.safetensors", optimizer=True, date="2026-01-01")
        predictor = model.compile()
        answers[name] = predictor(X)
        if predictor.classes_ is not None:
            answers[f"{name} labels"] = predictor.classes_.searchsorted(predictor.predict(X))
    safetensors.numpy.save_file(answers, HERE / f"version_{FORMAT_VERSION}_answers.safetensors")


if __name__ == "__main__":
    main()
