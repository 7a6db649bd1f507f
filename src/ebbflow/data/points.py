"""Points in the plane by formula: 20,000 to train on and 2,000 held out, always the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ebbflow.data.dataset import Dataset, Splits

NUM_TRAIN, NUM_HELD_OUT = 20_000, 2_000
N = NUM_TRAIN + NUM_HELD_OUT

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def moons(data_dir: str | Path | None = None) -> Splits:
    """Two interleaved half circles, float32 (N, 2); the label says which.

    Source: the two moons of scikit-learn's `make_moons`, Pedregosa et al., JMLR 12, 2011; here with noise 0.05,
    centred, and scaled by 0.85.
    """
    draw = _random()
    angle, moon = np.pi * draw.uniform(size=N), draw.randint(2, size=N)
    upper = _polar(1.0, angle)
    x = np.where(moon[:, None] == 0, upper, [1.0, 0.5] - upper)
    x = 0.85 * (x + 0.05 * draw.normal(size=(N, 2)) - [0.5, 0.25])
    return _splits("moons", x, moon, ("upper", "lower"))


def checkerboard(data_dir: str | Path | None = None) -> Splits:
    """The dark squares of a 4 x 4 board on [-1.2, 1.2]^2, float32 (N, 2), uniform; no labels.

    Source: the checkerboard density of Grathwohl et al., "FFJORD", 2019, arXiv 1810.01367.
    """
    draw = _random()
    column, pair = draw.randint(4, size=N), draw.randint(2, size=N)
    corner = np.stack([column, 2 * pair + column % 2], axis=1)
    return _splits("checkerboard", 0.6 * (corner + draw.uniform(size=(N, 2)) - 2))


def rings(data_dir: str | Path | None = None) -> Splits:
    """Three circles of radius 0.4, 0.8 and 1.2 with noise 0.03, float32 (N, 2); the label says which.

    Source: the rings of Grathwohl et al., "FFJORD", 2019, arXiv 1810.01367, after scikit-learn's `make_circles`.
    """
    draw = _random()
    ring = draw.randint(3, size=N)
    x = _polar(np.array([0.4, 0.8, 1.2])[ring], 2 * np.pi * draw.uniform(size=N)) + 0.03 * draw.normal(size=(N, 2))
    return _splits("rings", x, ring, ("inner", "middle", "outer"))


def swiss_roll(data_dir: str | Path | None = None) -> Splits:
    """A spiral of one and a half turns with noise 0.02, float32 (N, 2); no labels.

    Source: the first example of Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium
    Thermodynamics", 2015, arXiv 1503.03585: angle in [1.5 pi, 4.5 pi], radius proportional to it, at most 1.35 here.
    """
    draw = _random()
    angle = 1.5 * np.pi * (1 + 2 * draw.uniform(size=N))
    return _splits("swiss_roll", _polar(0.3 * angle / np.pi, angle) + 0.02 * draw.normal(size=(N, 2)))


def gaussians(data_dir: str | Path | None = None) -> Splits:
    """Eight normal distributions of standard deviation 0.07 on a circle of radius 1.1, float32 (N, 2).

    The label counts the eighths of a turn from the positive first axis.

    Source: the eight Gaussians of Grathwohl et al., "FFJORD", 2019, arXiv 1810.01367.
    """
    draw = _random()
    which = draw.randint(8, size=N)
    x = _polar(1.1, which * np.pi / 4) + 0.07 * draw.normal(size=(N, 2))
    return _splits("gaussians", x, which, tuple("01234567"))


def _random() -> np.random.RandomState:
    return np.random.RandomState(0)  # numpy promises never to change its stream


def _polar(radius: float | Floats, angle: Floats) -> Floats:
    """Points (N, 2) at these distances and angles from the origin."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _splits(name: str, x: Floats, labels: Ints | None = None, label_names: tuple[str, ...] = ()) -> Splits:
    data = Dataset(
        name=name,
        x=torch.from_numpy(x.astype(np.float32)),
        labels=None if labels is None else torch.from_numpy(labels.astype(np.int64)),
        label_names=label_names,
    )
    train = torch.arange(NUM_TRAIN)
    return Splits(train=data.select(train), held_out=data.select(train[:NUM_HELD_OUT] + NUM_TRAIN))
