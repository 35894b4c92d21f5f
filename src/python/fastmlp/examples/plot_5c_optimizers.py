"""
5. Pick the best: optimizers
============================

Plain gradient descent takes each step along the gradient of a few examples, a batch. Other optimizers make more of the
same gradients: they keep some of the last step (momentum), give each parameter a step size of its own (RMSprop, Adam,
NAdam), or look at signs only (Lion).

A race on handwritten digits: same network, same start, same batches. A fair race lets each have its own learning rate.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import semeion

plt.style.use("fastmlp.examples.lessons")
warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is where training shall end

# %%
# The race
# --------
# Each optimizer runs with four learning rates; the one that ends lowest counts.
X, y = semeion()
epochs = 3 if quick() else 30
racers = {
    "sgd": {"solver": "sgd", "momentum": 0.0, "rates": (0.03, 0.1, 0.3, 1.0)},
    "sgd, momentum": {"solver": "sgd", "momentum": 0.9, "rates": (0.01, 0.03, 0.1, 0.3)},
    "rmsprop": {"solver": "rmsprop", "rates": (3e-4, 1e-3, 3e-3, 1e-2)},
    "adam": {"solver": "adam", "rates": (1e-3, 3e-3, 1e-2, 3e-2)},
    "nadam": {"solver": "nadam", "rates": (1e-3, 3e-3, 1e-2, 3e-2)},
    "lion": {"solver": "lion", "weight_decay": 0.0, "rates": (1e-4, 3e-4, 1e-3, 3e-3)},
}
winners = {}
for name, settings in racers.items():
    for rate in settings.pop("rates")[:: 3 if quick() else 1]:
        model = MLPClassifier(
            (64,),
            learning_rate_init=rate,
            batch_size=100,
            max_iter=epochs,
            n_iter_no_change=np.inf,
            alpha=0,
            dtype="float32",
            random_state=0,
            **settings,
        ).fit(X, y)
        if name not in winners or model.loss_ < winners[name].loss_:
            winners[name] = model
winners = dict(sorted(winners.items(), key=lambda winner: winner[1].loss_))
print(f"{'optimizer':<15} {'best rate':>10} {'last loss':>12}")
for name, model in winners.items():
    print(f"{name:<15} {model.learning_rate_init:>10} {model.loss_:>12.5f}")

figure, ax = plt.subplots(figsize=(8, 4))
for name, model in winners.items():
    ax.plot(np.arange(1, epochs + 1), model.loss_curve_, label=f"{name}, rate {model.learning_rate_init}")
ax.set(yscale="log", xlabel="epoch", ylabel="training loss (logarithmic)", title="Who is first down?")
ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
