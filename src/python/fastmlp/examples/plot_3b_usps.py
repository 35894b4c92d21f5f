"""
3. Handwritten digits: USPS
===========================

Zip codes from envelopes: 7,291 digits to learn, 2,007 to test, 16 x 16 pixels in grey. The test digits are known to be
hard: people misread about 2.5 % of them (Bromley and Säckinger, 1991), the nearest neighbour among the training digits
misreads 5.6 %.

Three steps bring a network down: dropout, so that it does not learn the training digits by heart; deformed digits, new
ones in each epoch, which are still the same digits; and a vote of several networks.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.neighbors import KNeighborsClassifier

from fastmlp import MLPClassifier
from fastmlp.examples import quick
from fastmlp.examples.data import usps

plt.style.use("fastmlp.examples.lessons")

# %%
# Deformed digits
# ---------------
# A digit that is shifted, turned, slanted or bent a little is the same digit. So each image is drawn again with every
# pixel taken from a place nearby: a random affine map, and on top of it a smooth random field (elastic distortion:
# Simard, Steinkraus and Platt, 2003).
X_train, X_test, y_train, y_test = usps()
rng = np.random.RandomState(0)


def deform(images, elastic=3.0, smooth=2.5):
    n = len(images)
    down, across = np.mgrid[:16, :16] - 7.5
    turn, slant = rng.uniform(-0.17, 0.17, (2, n, 1, 1))
    size = rng.uniform(0.9, 1.1, (2, n, 1, 1))
    shift = rng.uniform(-1, 1, (2, n, 1, 1))
    field = gaussian_filter(rng.uniform(-1, 1, (2, n, 16, 16)).astype(np.float32), (0, 0, smooth, smooth))
    field *= 2 * smooth * elastic  # the filter has made it smaller
    rows = size[0] * (np.cos(turn) * down + np.sin(turn) * across) + shift[0] + field[0] + 7.5
    columns = size[1] * (np.cos(turn) * across - np.sin(turn) * down) + slant * down + shift[1] + field[1] + 7.5
    number = np.broadcast_to(np.arange(n)[:, None, None], rows.shape)
    return map_coordinates(images.reshape(n, 16, 16), [number, rows, columns], order=1).reshape(n, 256)


figure, axes = plt.subplots(4, 10, figsize=(9, 3.9))
first = [int(np.flatnonzero(y_train == digit)[0]) for digit in range(10)]
for line, images in zip(axes, [X_train[first], *(deform(X_train[first]) for _ in range(3))], strict=True):
    for ax, image in zip(line, images, strict=True):
        ax.imshow(image.reshape(16, 16))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, color="#e8ebee")
axes[0, 0].set_ylabel("as written")
axes[2, 0].set_ylabel("deformed")
