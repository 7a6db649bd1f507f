"""What ebbflow costs besides the net: sampler steps, start-up, training throughput. `make bench` prints it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ebbflow.config import parse, read_preset
from ebbflow.core.memory import keep_large_blocks
from ebbflow.core.noise import Noise, generator_for
from ebbflow.core.paths import PATHS
from ebbflow.core.times import TIME_GRIDS
from ebbflow.data import load_dataset
from ebbflow.methods.denoise import Denoiser, NetDenoiser
from ebbflow.methods.guidance import classifier_free
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs.build import build_denoiser, build_objective, conditioner_of, facts_of, resolved
from ebbflow.training import engine

STEPS, ROUNDS = 50, 9
DIMS = (1, 28, 28)
PREDICTIONS = {"flow": "velocity", "vp_discrete": "eps"}  # what the paths of the benchmark are most used with
SCHEDULERS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    ("euler", "flow"): ("FlowMatchEulerDiscreteScheduler", {}),
    ("ddim", "vp_discrete"): ("DDIMScheduler", {}),
    ("ddpm", "vp_discrete"): ("DDPMScheduler", {}),
    ("euler", "vp_discrete"): ("EulerDiscreteScheduler", {}),
    ("dpmpp_2m", "vp_discrete"): ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    ("dpmpp_2m_sde", "vp_discrete"): ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("unipc", "vp_discrete"): ("UniPCMultistepScheduler", {}),
}
Case = tuple[str, str, str]  # sampler, path, "plain" or "guided" or "diffusers"


def seconds_of(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run."""
    began = clock()
    run()
    return clock() - began


def interleaved(runs: Mapping[Case, Callable[[], object]]) -> dict[Case, float]:
    """The median seconds of each run on its one thread's own clock, which stands still while others have the processor;
    all of them taking turns, so that a slow minute is everybody's."""
    for run in runs.values():
        run()
    rounds = [{case: seconds_of(run, time.thread_time) for case, run in runs.items()} for _ in range(ROUNDS)]
    return {case: median(row[case] for row in rounds) for case in runs}


def free_denoiser(path: str, batch: int) -> NetDenoiser:
    """A conditional net that costs nothing."""
    outs = {num: torch.randn(num, *DIMS) for num in (batch, 2 * batch)}
    return NetDenoiser(
        net=lambda x, clock, cond: outs[len(x)],
        path=PATHS[path](),
        prediction=PREDICTIONS[path],
        make_null=lambda num: torch.zeros(num, dtype=torch.long),
    ).given(torch.ones(batch, dtype=torch.long))


def walk(name: str, denoiser: Denoiser, x: Tensor) -> Callable[[], object]:
    """A walk of `STEPS` steps with fresh noise."""
    sampler, times = SAMPLERS[name], TIME_GRIDS["uniform"](denoiser.path, STEPS)

    def run() -> None:
        extra = {"noise": Noise(range(len(x)))} if sampler.stochastic else {}
        for _ in sampler(denoiser, x, times, **extra):
            pass

    return run


def calls(denoiser: Denoiser, x: Tensor, times: list[float]) -> None:
    """x0 at each of some times."""
    for t in times:
        _ = denoiser(x, t).x0


def peer(name: str, path: str, x: Tensor) -> Callable[[], object] | None:
    """The steps of the same method in diffusers, where it is installed and has it."""
    try:
        import diffusers
    except ImportError:
        return None
    if (name, path) not in SCHEDULERS:
        return None
    kind, options = SCHEDULERS[name, path]
    scheduler, out = getattr(diffusers, kind)(**options), torch.randn_like(x)

    def run() -> None:
        scheduler.set_timesteps(STEPS)
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(out, t, scheduler.scale_model_input(state, t) if kind.startswith("Eu") else state)[0]

    return run


def sampler_costs(batch: int) -> dict[Case, float]:
    """Microseconds a step by case, and of one call of the denoiser and reading its x0 (sampler "")."""
    runs: dict[Case, Callable[[], object]] = {}
    x = torch.randn(batch, *DIMS)
    for path in PREDICTIONS:
        plain = free_denoiser(path, batch)
        guided = classifier_free(plain, guidance=2.0).given(plain.cond)
        times: list[float] = TIME_GRIDS["uniform"](plain.path, STEPS)[:-1].tolist()
        runs["", path, "plain"] = partial(calls, plain, x, times)
        for name in SAMPLERS:
            runs[name, path, "plain"], runs[name, path, "guided"] = walk(name, plain, x), walk(name, guided, x)
            if (other := peer(name, path, x)) is not None:
                runs[name, path, "diffusers"] = other
    with torch.no_grad():
        return {case: seconds / STEPS * 1e6 for case, seconds in interleaved(runs).items()}


def print_sampler_costs(batch: int) -> None:
    """The table of one batch size: with guidance both branches are counted, and in brackets the rule without them."""
    costs = sampler_costs(batch)
    print(f"\nus a step outside the net, batch {batch} of {'x'.join(map(str, DIMS))}")
    print(f"  {'':14}" + "".join(f"{path:>12} {'guided':>8} {'(rule)':>8} {'diffusers':>15}" for path in PREDICTIONS))
    for name in ["", *SAMPLERS]:
        row = f"  {name or '(one call)':14}"
        for path in PREDICTIONS:
            plain, guided, other = (costs.get((name, path, what)) for what in ("plain", "guided", "diffusers"))
            calls = SAMPLERS[name].evaluations(STEPS) or 0 if name else 0
            rule = None if guided is None or not calls else guided - 2 * calls / STEPS * costs["", path, "plain"]
            beside = "" if other is None or plain is None else f"{other:.0f} (x {other / plain:.1f})"
            row += f"{plain:12.0f} {_number(guided):>8} {_number(rule):>8} {beside:>15}"
        print(row)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def training_throughput(preset: str, precision: str) -> float:
    """Samples a second of forward and backward as training does them, on noise of the preset's shape."""
    config = parse(read_preset(preset))
    splits = load_dataset("digits", size=28 if config.data.name == "mnist" else None)
    facts = facts_of(splits.train)
    config = resolved(config, facts)
    denoiser, objective, size = build_denoiser(config, facts), build_objective(config), config.train.batch_size
    assert isinstance(denoiser.net, torch.nn.Module)
    trained = engine.Engine(device="cpu", precision="bf16" if precision == "bf16" else "fp32")
    conditioner = conditioner_of(denoiser)
    x0, cond = splits.train.x0(torch.arange(size)), None if conditioner is None else conditioner.null(size)
    generator = generator_for(0, "bench")

    def step() -> None:
        with trained.autocast(x0.device):
            losses = objective.losses(denoiser, x0, cond, torch.randn_like(x0), objective.draw_times(size, generator))
        losses.mean().backward()

    step()
    return size / median(seconds_of(step) for _ in range(8))


def start_up(code: str) -> float:
    """Median seconds of three fresh processes."""
    return median(
        seconds_of(lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True))
        for _ in range(3)
    )


def main() -> None:
    """Print every figure."""
    keep_large_blocks()
    torch.set_num_threads(1)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, CPU capability {capability}")
    for batch in (64, 1):
        print_sampler_costs(batch)
    print("\nstart-up, s")
    for label, code in {
        "import torch": "import torch",
        "import ebbflow": "import ebbflow; ebbflow.SAMPLERS",
        "ebbflow --help": "from ebbflow.cli.app import run_app; run_app(['--help'])",
    }.items():
        print(f"  {label:18} {start_up(code):.2f}")
    print("\ntraining, samples/s: fp32, bf16")
    for preset in ("digits", "mnist_flow_unet", "mnist_flow_dit"):
        print(f"  {preset:18} {training_throughput(preset, 'fp32'):7.0f} {training_throughput(preset, 'bf16'):7.0f}")


if __name__ == "__main__":
    main()
