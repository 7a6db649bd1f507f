"""A sampler of your own, used from the command line and held against exact data.

cd examples
ebbflow sample --import own_sampler --ckpt RUN --sampler ralston --output samples.png
ebbflow verify --import own_sampler --quick
"""

from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

import ebbflow as ef


@ef.sampler(order=2, evaluations=lambda num_steps: 2 * num_steps - 1)
def ralston(denoise: ef.Denoiser, x: Tensor, levels: list[ef.Level]) -> Iterator[ef.Step]:
    """The two-stage method of least error: slopes at the start and two thirds ahead, weighed 1 : 3 (Ralston, 1962)."""
    for t, s in pairwise(levels):
        estimate = denoise(x, t.t)
        if ef.must_be_ddim(t, s):
            x = ef.remix(estimate, s)
        else:
            h, m = s.t - t.t, ef.level_at(denoise.path, t.t + 2 * (s.t - t.t) / 3)
            k1 = ef.slope(estimate, t)
            k2 = ef.slope(denoise(x + 2 * h / 3 * k1, m.t), m)
            x = x + h * (k1 + 3 * k2) / 4
        yield ef.Step(s.t, x, estimate)
