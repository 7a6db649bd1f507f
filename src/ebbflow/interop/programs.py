"""Programs: what a run does, traced for any batch, so that it runs without the code that made it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ebbflow.conditioning import ConditionedNet, Conditioner, ImageConditioner, PretrainedEncoder
from ebbflow.core.coefficients import Coefficients
from ebbflow.core.condition import GivenImage
from ebbflow.core.paths import Path
from ebbflow.core.predictions import solve
from ebbflow.core.times import TimeGrid, time_grid, uniform_grid
from ebbflow.errors import ConfigError
from ebbflow.latent import LatentSpace
from ebbflow.methods.denoise import NetDenoiser, NetFlowMap
from ebbflow.runs.build import conditioner_of
from ebbflow.runs.folder import versions
from ebbflow.runs.model import Model
from ebbflow.runs.opened import as_latent_space
from ebbflow.runs.plan import default_plan

LARGEST_BATCH = 2**16
TABLES = 50  # numbers of steps whose times are written down where the grid is not uniform
KNOWN_SAMPLERS = ("ddim", "euler", "heun", "flow_map")  # what the pipeline of diffusers can walk
OUTPUTS = {"step": ("x_s", "x0", "eps", "levels"), "decoder": ("images",), "encoder": ("latents",)}


class StepProgram(nn.Module):
    """One step of a model: (x, t, s, condition) -> x_s, x0, eps, levels.

    x_s = alpha(s) x0 + sigma(s) eps is DDIM's step from t to s, or the jump of a model that jumps, whose x0 and eps are
    then the pair of that jump. Guidance is outside: u + w (c - u) of x0 and eps, or of x_s, asked with the null
    condition and with the wanted one.

    Args:
        denoiser: with no condition bound.
    """

    def __init__(self, denoiser: NetDenoiser) -> None:
        super().__init__()
        assert isinstance(denoiser.net, ConditionedNet)
        self.net = denoiser.net
        self.denoiser = replace(denoiser, path=replace(denoiser.path))  # which remembers times, traced ones too

    def forward(self, x: Tensor, t: Tensor, s: Tensor, condition: Tensor | None = None) -> tuple[Tensor, ...]:
        """x float32 (B, *dims); t and s float64 (B,), 0 <= s <= t, t > 0; levels float64 (B, 8): alpha, sigma, alpha',
        sigma' at t, then at s."""
        d = self.denoiser
        jump = {"s": s} if isinstance(d, NetFlowMap) else {}
        out = d.output(x, t, condition, **jump)
        found = solve(d.prediction, out[:, : x.shape[1]], x, t, d.path)
        levels = [getattr(d.path.at(when), one.name) for when in (t, s) for one in fields(Coefficients)]
        return d.path.mix(found.x0, found.eps, s), found.x0, found.eps, torch.stack(levels, dim=1)


class SpaceProgram(nn.Module):
    """`images` (B, *dims) of latents (B, *latent_dims), or `latents` of images in [-1, 1]."""

    def __init__(self, space: LatentSpace, gives: Literal["images", "latents"]) -> None:
        super().__init__()
        self.space, self.gives = space, gives

    def forward(self, given: Tensor) -> Tensor:
        return self.space.images(given) if self.gives == "images" else self.space.latents(given)


def programs_of(model: Model) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """The programs of a model by name, each with inputs for two samples: `step`, and of a model of latents `decoder`
    and `encoder`.

    Raises:
        ConfigError: a condition that is read by something which is no part of the run.
    """
    assert isinstance(model.denoiser, NetDenoiser)
    conditioner = traceable(conditioner_of(model.denoiser))
    state = torch.zeros(2, *model.facts.state_dims)
    t = torch.tensor([1.0, 0.5], dtype=torch.float64)
    cond = {} if conditioner is None else {"condition": conditioner.null(2)}
    found: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        "step": (StepProgram(model.denoiser), {"x": state, "t": t, "s": t / 2, **cond})
    }
    if (space := as_latent_space(model.space)) is not None:
        found["decoder"] = SpaceProgram(space, "images"), {"latents": state}
        found["encoder"] = SpaceProgram(space, "latents"), {"images": torch.zeros(2, *model.dims)}
    return found


def traceable(conditioner: Conditioner | None) -> Conditioner | None:
    """The conditioner, which is a part of the run.

    Raises:
        ConfigError: an encoder from elsewhere reads its texts.
    """
    if isinstance(getattr(conditioner, "encoder", None), PretrainedEncoder):
        raise ConfigError(
            "this run's texts are read by an encoder that is no part of it (conditioning.kind=pretrained_text). Export "
            "it `to` safetensors, which names that encoder."
        )
    return conditioner


def traced(program: nn.Module, inputs: dict[str, Tensor]) -> ExportedProgram:
    """A program for any batch from 1 to 65,536, without a trace of where it was made."""
    batch = Dim("batch", min=1, max=LARGEST_BATCH)
    with torch.no_grad():
        found = torch.export.export(
            program.eval(), tuple(inputs.values()), dynamic_shapes=[{0: batch} for _ in inputs.values()]
        )
    for node in found.graph_module.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node"):
            node.meta.pop(key, None)
    found._example_inputs = None
    return found


def described(model: Model) -> dict[str, Any]:
    """What has to be known to use the programs, ready for JSON.

    `sigma` is that of t = 1, where sampling starts at sigma eps; `times` are falling times by number of steps, or None
    for equal steps from 1 to 0.
    """
    assert isinstance(model.denoiser, NetDenoiser)
    run, plan = model.require_run("only those are exported"), default_plan(model, seeds=(0,), conditions=("",))
    jumps, path = isinstance(model.denoiser, NetFlowMap), model.denoiser.path
    guided = model.is_guidable and model.is_conditional and not jumps
    own = str(plan.sampler) if str(plan.sampler) in KNOWN_SAMPLERS else "ddim"
    return {
        "name": model.name,
        "step": run.checkpoint.step,
        "weights": model.weights,
        "dims": list(model.facts.state_dims),
        "image_dims": list(model.dims),
        "is_image": model.facts.is_image,
        "condition": _condition(model),
        "is_guidable": guided,
        "jumps": jumps,
        "sigma": float(path.at(1.0).sigma),
        "times": _times(time_grid(plan.grid), path, plan.num_steps),
        "sample": {
            "sampler": "flow_map" if jumps else own,
            "num_steps": plan.num_steps,
            "guidance": plan.guidance if guided else 1.0,
            "clip": plan.clip and not jumps,
        },
        "versions": versions(),
    }


def _times(grid: TimeGrid, path: Path, num_steps: int) -> dict[str, list[float]] | None:
    if grid is uniform_grid:
        return None
    tables = {}
    for num in sorted({*range(1, TABLES + 1), num_steps}):
        try:
            tables[str(num)] = grid(path, num).tolist()
        except ValueError:  # more steps than a table has
            break
    return tables


def _condition(model: Model) -> dict[str, Any] | None:
    """What a row of conditions is, and how a user's words become one."""
    assert isinstance(model.denoiser, NetDenoiser)
    conditioner = conditioner_of(model.denoiser)
    if conditioner is None:
        return None
    null = conditioner.null(1)[0]
    found: dict[str, Any] = {
        "takes": conditioner.takes,
        "shape": list(null.shape),
        "dtype": str(null.dtype).removeprefix("torch."),
        "null": null.flatten()[0].item(),
        "names": list(model.label_names),
    }
    if isinstance(conditioner, ImageConditioner):
        known = conditioner.of_image(GivenImage(name="", x=torch.zeros(conditioner.dims)))[-1]
        found["known"] = 1 if bool((known == 1).all()) else known.tolist()
    return found
