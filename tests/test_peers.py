"""The same walk as diffusers, step by step: same table, same grid, same noise, same exact model.

diffusers keeps its tables in float32; they are replaced by ours in float64, so that what is compared is the
mathematics.
Some of its schedulers pass the state through float32, hence the tolerance of 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import F64, MILD, PATH_CASES, Stream, mixture, noise_start, normal, walk
from torch import Tensor

from ebbflow.core.paths import CosineDiscrete, DiscretePath, Flow, VPDiscrete
from ebbflow.core.times import TIME_GRIDS, ShiftedGrid
from ebbflow.methods.denoise import NetDenoiser
from ebbflow.methods.told import raw_steps

diffusers = pytest.importorskip("diffusers")

TABLES: dict[str, tuple[DiscretePath, dict[str, object]]] = {
    "linear": (VPDiscrete(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (
        VPDiscrete(spacing="scaled_linear", beta_start=8.5e-4, beta_end=0.012),
        {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012},
    ),
    "cosine": (CosineDiscrete(), {"beta_schedule": "squaredcos_cap_v2"}),
}
each_table = pytest.mark.parametrize("table", TABLES)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy 2 on their arrays


def with_our_table(kind: str, table: str, num_steps: int, **config: object) -> object:
    """A scheduler on the trailing grid whose alpha-bar and sigmas are ours, in float64."""
    path, schedule = TABLES[table]
    scheduler = getattr(diffusers, kind)(**schedule, timestep_spacing="trailing", prediction_type="epsilon", **config)
    scheduler.alphas_cumprod = path.alpha_bars
    scheduler.set_timesteps(num_steps)
    times = TIME_GRIDS["trailing"](path, num_steps)
    wanted = (times[:-1] * path.num_steps).round().long() - 1
    assert scheduler.timesteps.tolist() == wanted.tolist(), "the grids differ: nothing to compare"
    if hasattr(scheduler, "sigmas"):
        c = path.at(times)
        scheduler.sigmas = c.sigma / c.alpha
    return scheduler


def theirs(scheduler: object, path: DiscretePath, x: Tensor, step: Callable[..., object]) -> list[Tensor]:
    """Their loop, fed with eps of our oracle on the mixture at t = (index + 1) / T."""
    oracle, states = mixture(path, MILD), []
    for index in scheduler.timesteps:  # type: ignore[attr-defined]
        eps = oracle(x, (float(index) + 1) / path.num_steps).eps
        x = step(eps, index, x).prev_sample  # type: ignore[attr-defined]
        states.append(x)
    return states


def start(path: DiscretePath) -> Tensor:
    return noise_start(path, 16)


def agree(ours: list[Tensor], others: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(ours) == len(others)
    for i, (a, b) in enumerate(zip(ours, others, strict=True)):
        torch.testing.assert_close(a, b.double(), rtol=0, atol=tolerance, msg=lambda m, i=i: f"after step {i + 1}: {m}")


@each_table
def test_tables_are_theirs(table: str) -> None:
    path, schedule = TABLES[table]
    scheduler = diffusers.DDPMScheduler(**schedule)
    torch.testing.assert_close(path.alpha_bars, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=2e-7)
    torch.testing.assert_close(path.betas, scheduler.betas.double(), rtol=2e-4, atol=2e-7)


def test_zero_terminal_snr_is_theirs() -> None:
    path = PATH_CASES["vp_discrete/zero_snr"]
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, rescale_betas_zero_snr=True)
    # type: ignore[attr-defined]
    torch.testing.assert_close(path.alpha_bars, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=2e-6)


@each_table
@pytest.mark.parametrize(("variance", "their_name"), [("small", "fixed_small"), ("large", "fixed_large")])
@pytest.mark.parametrize("num_steps", [50, 200])
def test_ddpm(table: str, variance: str, their_name: str, num_steps: int) -> None:
    """The last step differs: unless the grid visits entry 0 they add noise there (1e-10 for "small"); we return x0."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    scheduler = with_our_table("DDPMScheduler", table, num_steps, variance_type=their_name, clip_sample=False)
    generator = torch.Generator().manual_seed(5)
    # type: ignore[attr-defined]
    others = theirs(scheduler, path, x, lambda *args: scheduler.step(*args, generator=generator))
    steps = walk(
        "ddpm", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps), noise=Stream(5), variance=variance
    )
    ours = [step.x for step in steps]
    if variance == "large" and num_steps < path.num_steps:
        assert (ours.pop() - others.pop()).abs().max() > 1e-3, (
            "they no longer add noise at the end: compare the last step too"
        )
    agree(ours, others)


@each_table
@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_ddim(table: str, num_steps: int, eta: float) -> None:
    """With set_alpha_to_one, their default, both end at clean data; for eta > 0 they add noise of size 0 there."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    scheduler = with_our_table("DDIMScheduler", table, num_steps, clip_sample=False)
    stream = Stream(6)

    def step(eps: Tensor, index: Tensor, state: Tensor) -> object:
        # type: ignore[attr-defined]
        return scheduler.step(eps, index, state, eta=eta, variance_noise=stream.like(state) if eta else None)

    options = {"eta": eta, "noise": Stream(6)} if eta else {}
    steps = walk("ddim", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps), **options)
    agree([step.x for step in steps], theirs(scheduler, path, x, step))


@each_table
@pytest.mark.parametrize("num_steps", [5, 20, 50])
def test_dpmpp_2m(table: str, num_steps: int) -> None:
    """Their "midpoint" is the paper's algorithm 2. They too end with a first-order step: there lambda is infinite."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    scheduler = with_our_table(
        "DPMSolverMultistepScheduler",
        table,
        num_steps,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    steps = walk("dpmpp_2m", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps))
    agree([step.x for step in steps], theirs(scheduler, path, x, scheduler.step))  # type: ignore[attr-defined]


@each_table
@pytest.mark.parametrize("num_steps", [5, 20, 50])
def test_dpmpp_2m_sde(table: str, num_steps: int) -> None:
    path, x, stream = TABLES[table][0], start(TABLES[table][0]), Stream(7)
    scheduler = with_our_table(
        "DPMSolverMultistepScheduler",
        table,
        num_steps,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
    )
    # type: ignore[attr-defined]
    others = theirs(scheduler, path, x, lambda *args: scheduler.step(*args, variance_noise=stream.like(args[2])))
    steps = walk("dpmpp_2m_sde", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps), noise=Stream(7))
    agree([step.x for step in steps], others)


@each_table
@pytest.mark.parametrize("num_steps", [5, 20, 50])
def test_unipc(table: str, num_steps: int) -> None:
    """bh2 on x0. Both correct the last state at the next evaluation, and end with a first-order step."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    scheduler = with_our_table(
        "UniPCMultistepScheduler",
        table,
        num_steps,
        solver_order=2,
        solver_type="bh2",
        predict_x0=True,
        final_sigmas_type="zero",
    )
    steps = walk("unipc", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps))
    agree([step.x for step in steps], theirs(scheduler, path, x, scheduler.step))  # type: ignore[attr-defined]


@each_table
@pytest.mark.parametrize("num_steps", [5, 20, 50])
def test_deis(table: str, num_steps: int) -> None:
    """ "logrho" of order 3. Theirs ends at the table's first entry; our last step is x0, so it is not compared."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    scheduler = with_our_table("DEISMultistepScheduler", table, num_steps, solver_order=3, lower_order_final=False)
    scheduler.sigmas[-1] = scheduler.sigmas[0] / 100  # type: ignore[attr-defined]
    others = theirs(scheduler, path, x, scheduler.step)[:-1]  # type: ignore[attr-defined]
    agree(
        [step.x for step in walk("deis", mixture(path, MILD), x, TIME_GRIDS["trailing"](path, num_steps))[:-1]], others
    )


@each_table
@pytest.mark.parametrize("num_steps", [5, 20, 50])
def test_pndm(table: str, num_steps: int) -> None:
    """Without their Runge-Kutta steps both take the first step twice; our last one is x0, so it is not compared."""
    path, x = TABLES[table][0], start(TABLES[table][0])
    schedule, oracle = TABLES[table][1], mixture(path, MILD)
    scheduler = diffusers.PNDMScheduler(
        **schedule, timestep_spacing="trailing", skip_prk_steps=True, set_alpha_to_one=True
    )
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = path.alpha_bars, torch.tensor(1.0, dtype=F64)
    scheduler.set_timesteps(num_steps)
    others, state = [], x
    for index in scheduler.timesteps:
        state = scheduler.step(oracle(state, (float(index) + 1) / path.num_steps).eps, int(index), state).prev_sample
        others.append(state)
    ours = [step.x for step in walk("pndm", oracle, x, TIME_GRIDS["trailing"](path, num_steps))]
    agree(ours[:-1], others[1:-1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 30])
def test_flow_match_euler(shift: float, num_steps: int) -> None:
    """Their default grid shifts sigma_min twice (#13243), so plain sigmas are passed; they shift them once."""
    path, grid = PATH_CASES["flow"], ShiftedGrid(shift=shift)(PATH_CASES["flow"], num_steps)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    torch.testing.assert_close(scheduler.sigmas.double(), grid, rtol=0, atol=1e-6)
    oracle, x, others = mixture(path, MILD), noise_start(path, 16), []
    for t in scheduler.timesteps:
        estimate = oracle(x if not others else others[-1], float(t) / 1000)
        others.append(scheduler.step(estimate.eps - estimate.x0, t, x if not others else others[-1]).prev_sample)
    agree([step.x for step in walk("euler", oracle, x, grid)], others)
    slow = Flow(shift=shift)  # the same walk as DDIM on equal steps of the shifted clock
    agree([step.x for step in walk("ddim", mixture(slow, MILD), x, TIME_GRIDS["uniform"](slow, num_steps))], others)


def test_rk4_against_an_adaptive_solver() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    path = PATH_CASES["flow"]
    oracle, x = mixture(path, MILD), noise_start(path, 16)

    def velocity(t: Tensor, state: Tensor) -> Tensor:
        estimate = oracle(state, float(t))
        return path.velocity(estimate.x0, estimate.eps, float(t))

    ends = torch.tensor([0.98, 0.02], dtype=F64)
    wanted = torchdiffeq.odeint(velocity, x, ends, method="dopri5", rtol=1e-9, atol=1e-10)[-1]
    got = walk("rk4", oracle, x, torch.linspace(0.98, 0.02, 129, dtype=F64))[-1].x
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)


@each_table
def test_a_net_of_theirs_is_told_the_step_that_they_tell_it(table: str) -> None:
    """A U-Net of diffusers, shown x_t as it is: told t * 1000, one step too many, it walks elsewhere without a word."""
    path, num_steps = TABLES[table][0], 25
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    seen: list[float] = []

    def net(x: Tensor, step: Tensor, cond: None) -> Tensor:
        seen.append(float(step[0]))
        return unet(x.float(), step).sample

    model = NetDenoiser(net=net, path=path, prediction="eps", scale="none", clock=raw_steps(num_steps=path.num_steps))
    x = normal(2, 1, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        steps = walk("ddim", model, x, TIME_GRIDS["trailing"](path, num_steps))
        scheduler = with_our_table("DDIMScheduler", table, num_steps, clip_sample=False)
        state, others = x, []
        for index in scheduler.timesteps:  # type: ignore[attr-defined]
            state = scheduler.step(unet(state, index).sample, index, state).prev_sample  # type: ignore[attr-defined]
            others.append(state)
    assert [round(k) for k in seen] == scheduler.timesteps.tolist()  # type: ignore[attr-defined]
    scale = float(others[-1].abs().max())
    agree([step.x.double() / scale for step in steps], [other / scale for other in others], tolerance=1e-3)
