"""What the mathematical batteries share: cases from the registries, exact laws of data, noise to be taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ebbflow.core.noise import Noise
from ebbflow.core.paths import PATHS, CosineDiscrete, Path, VPDiscrete
from ebbflow.core.predictions import PREDICTIONS, Estimate, check_pair
from ebbflow.methods.denoise import Denoiser, FlowMap, FunctionDenoiser
from ebbflow.methods.objective import Objective
from ebbflow.methods.oracles import Gaussian, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS, Step

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes to the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EBBFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


F64 = torch.float64

# Mixtures on the line, (mean, std, weight) a component: one to count modes in, one mild enough to show orders early.
Law = tuple[tuple[float, float, float], ...]
MODES: Law = ((-2.0, 0.3, 0.3), (0.5, 0.4, 0.5), (2.5, 0.3, 0.2))
MILD: Law = ((-1.0, 0.4, 0.3), (0.8, 0.5, 0.5), (0.2, 0.6, 0.2))

PATH_CASES: dict[str, Path] = {
    **{name: kind() for name, kind in PATHS.items()},
    **{f"{name}/shift2.5": kind(shift=2.5) for name, kind in PATHS.items()},
    "vp_discrete/50": VPDiscrete(num_steps=50),
    "vp_discrete/scaled": VPDiscrete(spacing="scaled_linear", beta_start=8.5e-4, beta_end=0.012),
    "vp_discrete/zero_snr": VPDiscrete(zero_terminal_snr=True),
    "cosine_discrete/10": CosineDiscrete(num_steps=10),
    "cosine_discrete/10_zero_snr": CosineDiscrete(num_steps=10, zero_terminal_snr=True),
}
each_path = pytest.mark.parametrize("path", PATH_CASES.values(), ids=PATH_CASES)
registered_path = pytest.mark.parametrize("path", [PATH_CASES[name] for name in PATHS], ids=PATHS)

# What walks any denoiser; the others jump, and want a map (tests/test_maps.py).
WALKERS = [name for name, sampler in SAMPLERS.items() if not sampler.jumps]

# The options of a sampler that change its law; a sampler without a row is tested with its defaults.
VARIANTS: dict[str, list[dict[str, object]]] = {
    "ddim": [{}, {"eta": 0.5}, {"eta": 1.0}],
    "ddpm": [{}, {"variance": "large"}, {"variance": "optimal"}],
    "sde": [{}, {"diffusion": "forward"}, {"scale": 0.5}],
    "pc": [{}, {"corrector_steps": 2}],
    "restart": [{}, {"restarts": 3, "share": 0.5}],
    "flow_map": [{}, {"renoise": 0.5}, {"renoise": 1.0}],
}


def _label(name: str, options: dict[str, object]) -> str:
    return "-".join([name, *(f"{value}" for value in options.values())])


SAMPLER_CASES = {_label(name, o): (name, o) for name in SAMPLERS for o in VARIANTS.get(name, [{}])}
NOISY_CASES = {
    label: (name, o)
    for label, (name, o) in SAMPLER_CASES.items()
    if SAMPLERS[name].stochastic or o.get("eta") or o.get("renoise")
}
each_sampler = pytest.mark.parametrize(("name", "options"), SAMPLER_CASES.values(), ids=SAMPLER_CASES)
noisy_sampler = pytest.mark.parametrize(("name", "options"), NOISY_CASES.values(), ids=NOISY_CASES)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared by many: keep every process to one."""
    torch.set_num_threads(1)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def interior(num: int, low: float = 0.02, high: float = 0.98, seed: int = 0) -> Tensor:
    """Random times in (low, high), float64 of shape (num,)."""
    return low + (high - low) * torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=F64)


def is_valid(prediction: str, path: Path) -> bool:
    try:
        check_pair(prediction, path)
    except ValueError:
        return False
    return True


def objective_or_none(path: Path, prediction: str, weight: str, times: str = "uniform") -> Objective | None:
    """The objective, or None where it is refused, which may happen to unweighted losses only."""
    try:
        return Objective(path, prediction=prediction, weight=weight, times=times)
    except ValueError:
        assert weight == "uniform", f"{prediction} with weight {weight} is refused"
        return None


VALID_PAIRS = {f"{p}-{n}": (PATH_CASES[n], p) for n in PATH_CASES for p in PREDICTIONS if is_valid(p, PATH_CASES[n])}
valid_pair = pytest.mark.parametrize(("path", "prediction"), VALID_PAIRS.values(), ids=VALID_PAIRS)


# -- one-dimensional mixtures with everything known in closed form ---------------------------------


def parts(law: Law) -> tuple[Tensor, Tensor, Tensor]:
    """Means, standard deviations and weights, float64 of shape (K,)."""
    means, stds, weights = torch.tensor(law, dtype=F64).T
    return means, stds, weights


def mixture(path: Path, law: Law = MODES) -> GaussianMixture:
    means, stds, weights = parts(law)
    return GaussianMixture(means[:, None], stds, weights, path)


def mixture_data(num: int, seed: int, law: Law = MODES) -> Tensor:
    """Draws from the mixture, shape (num, 1)."""
    means, stds, weights = parts(law)
    g = torch.Generator().manual_seed(seed)
    k = torch.multinomial(weights, num, replacement=True, generator=g)
    return (means[k] + stds[k] * torch.randn(num, generator=g, dtype=F64))[:, None]


def mixture_quantiles(path: Path, t: float, u: Tensor, law: Law = MODES) -> Tensor:
    """The u-quantiles of p_t by bisection. In one dimension the ODE keeps quantiles, so this is its exact solution."""
    c, (means, stds, weights) = path.at(t), parts(law)
    centres, spreads = c.alpha * means, torch.sqrt((c.alpha * stds) ** 2 + c.sigma**2)
    low, high = (edge.expand_as(u) for edge in (centres.min() - 9 * spreads.max(), centres.max() + 9 * spreads.max()))
    for _ in range(80):
        x = (low + high) / 2
        below = (weights * torch.special.ndtr((x[:, None] - centres) / spreads)).sum(1) < u
        low, high = torch.where(below, x, low), torch.where(below, high, x)
    return (low + high) / 2


# -- running samplers ------------------------------------------------------------------------------


class Stream:
    """Noise from one generator, for Monte Carlo over large batches."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def like(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self._generator, dtype=x.dtype)


class Impulses:
    """The k-th draw is 1 in row k, 0 elsewhere: row k of a linear sampler is then its answer to the k-th draw alone."""

    def __init__(self) -> None:
        self._drawn = 0

    def like(self, x: Tensor) -> Tensor:
        self._drawn += 1
        return torch.zeros_like(x).index_fill_(0, torch.tensor([self._drawn]), 1.0)


class Counted(FlowMap):
    """A map that notes the times at which it is asked."""

    def __init__(self, inner: FlowMap) -> None:
        self.inner, self.path = inner, inner.path
        self.asked: list[float] = []

    def __call__(self, x_t: Tensor, t: float | Tensor) -> Estimate:
        self.asked.append(float(torch.as_tensor(t).min()))
        return self.inner(x_t, t)

    def jump(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Estimate:
        self.asked.append(float(torch.as_tensor(t).min()))
        return self.inner.jump(x_t, t, s)


def with_noise(name: str, options: dict[str, object], noise: object) -> dict[str, object]:
    """The options with `noise` where the sampler draws any."""
    draws = SAMPLERS[name].stochastic or bool(options.get("eta") or options.get("renoise"))
    return {**options, "noise": noise} if draws else dict(options)


def walk(name: str, denoise: Denoiser, x: Tensor, times: Tensor, **options: object) -> list[Step]:
    return list(SAMPLERS[name](denoise, x, times, **options))


def seeded(name: str, options: dict[str, object], num: int) -> dict[str, object]:
    return with_noise(name, options, Noise(range(num)))


def noise_start(path: Path, num: int, dtype: torch.dtype = F64, dims: int = 1) -> Tensor:
    """Pure noise at t = 1, shape (num, dims)."""
    return path.mix(torch.zeros(num, dims, dtype=dtype), normal(num, dims, seed=9).to(dtype), 1.0)


def line(high: float, low: float, num_steps: int) -> Tensor:
    return torch.linspace(high, low, num_steps + 1, dtype=F64)


def exact_variance(name: str, path: Path, times: Tensor, std: float, **options: object) -> float:
    """Variance of the result on data N(0, std^2), started from the exact marginal: a sum of squares, no Monte Carlo."""
    draws = 1 + int(str(options.get("corrector_steps", options.get("restarts", 1))))  # a step, at most
    x = torch.zeros(draws * len(times) + 1, 1, dtype=F64)
    c = path.at(times[0])
    x[0] = torch.sqrt((c.alpha * std) ** 2 + c.sigma**2)
    last = walk(name, Gaussian(0.0, std, path), x, times, **with_noise(name, options, Impulses()))[-1]
    return float(last.x.square().sum())


def marginal_variance(path: Path, t: float | Tensor, std: float) -> float:
    c = path.at(t)
    return float((c.alpha * std) ** 2 + c.sigma**2)


def shifted(path: Path, shift: float) -> Path:
    return replace(path, shift=shift)


class OnDevice(torch.Tensor):
    """Numbers that behave as they would on a device without float64: only their copy on the CPU may be widened."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, OnDevice) and found.dtype == F64:
            raise TypeError("this device has no float64")
        return found


def on_device() -> FunctionDenoiser:
    """An exact denoiser of Gaussian data, on the flow path, whose output lies on such a device."""
    path = PATHS["flow"]()

    def velocity(x: Tensor, t: Any) -> Tensor:
        found = Gaussian(0.0, 0.5, path)(x.as_subclass(Tensor), t)
        return (found.eps - found.x0).as_subclass(OnDevice)

    return FunctionDenoiser(function=velocity, path=path)
