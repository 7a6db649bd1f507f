"""How the output of a net, in any prediction on any path, makes a jump: X(x, t, s) = skip x + out o.

With x = alpha x0 + sigma eps and o = a x0 + b eps at t, d = a sigma - b alpha, solved for the pair and mixed anew at s:

    skip = (sigma_s a - alpha_s b) / d        out = (alpha_s sigma - sigma_s alpha) / d

On the flow path with prediction velocity they are 1 and -(t - s); on the cosine path with v, cosine and minus sine of
the angle between t and s. At s = t they are 1 and 0, and dX/ds there is the velocity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebbflow.core.paths import Path
from ebbflow.core.predictions import PREDICTIONS, Prediction, check_pair, path_name, prediction_of

LARGEST_ERROR = 10.0  # what a net's error at t = 1 may grow to in one jump to the data, in units of its target

Form = tuple[Tensor, Tensor]  # what x and what the output weigh


def form(prediction: Prediction, path: Path, t: Tensor, s: Tensor) -> Form:
    """skip and out, float64 of the shape of t and s, (B,) or ()."""
    c, there = path.at(t), path.at(s)
    a, b = prediction(c)
    d = a * c.sigma - b * c.alpha
    return (there.sigma * a - there.alpha * b) / d, (there.alpha * c.sigma - there.sigma * c.alpha) / d


def form_by_s(prediction: Prediction, path: Path, t: Tensor, s: Tensor) -> Form:
    """Their derivatives in s."""
    c, there = path.at(t), path.at(s)
    a, b = prediction(c)
    d = a * c.sigma - b * c.alpha
    return (there.sigma_dot * a - there.alpha_dot * b) / d, (there.alpha_dot * c.sigma - there.sigma_dot * c.alpha) / d


def form_by_t(prediction: Prediction, path: Path, t: Tensor, s: Tensor) -> Form:
    """Their derivatives in t."""
    with torch.enable_grad():
        at = t.detach().clone().requires_grad_()
        skip, out = form(prediction, path, at, s)
        (by_skip,) = torch.autograd.grad(skip.sum(), at, retain_graph=True, allow_unused=True)
        (by_out,) = torch.autograd.grad(out.sum(), at)
    return torch.zeros_like(t) if by_skip is None else by_skip, by_out


def unit_of(prediction: Prediction, path: Path, t: Tensor) -> Tensor:
    """d / D, D = alpha sigma' - alpha' sigma: how much the output changes, up to its sign, where the velocity changes
    by 1."""
    c = path.at(t)
    a, b = prediction(c)
    return (a * c.sigma - b * c.alpha) / c.determinant


def check_form(prediction: object, path: Path) -> None:
    """Refuse a prediction whose error would be blown up by the one jump from t = 1 to the data.

    Raises:
        ValueError: it would; the message names the cure.
    """
    grown = _growth(prediction_of(prediction), path)  # type: ignore[arg-type]
    if grown <= LARGEST_ERROR:
        return
    cures = [name for name, one in PREDICTIONS.items() if _growth(one, path) <= LARGEST_ERROR]
    raise ValueError(
        f"one jump from t = 1 multiplies the error of prediction {prediction!r} by {grown:.3g} on path "
        f"{path_name(path)!r}, so no map can be learned in it. Use {', '.join(cures)}."
    )


def _growth(prediction: Prediction, path: Path) -> float:
    """The size of out at (1, 0) times that of the target at t = 1."""
    try:
        check_pair(prediction, path)
    except ValueError:
        return math.inf
    one = torch.ones((), dtype=torch.float64)
    a, b = prediction(path.at(one))
    grown = float(form(prediction, path, one, 0 * one)[1].abs() * (a**2 + b**2).sqrt())
    return grown if math.isfinite(grown) else math.inf
