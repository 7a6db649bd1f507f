"""A model that ebbflow trained, as a pipeline of diffusers; it needs torch and diffusers, not ebbflow."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

SAMPLERS = ("ddim", "euler", "heun")


class EbbflowPipeline(DiffusionPipeline):
    """From noise to samples: t = 1 is noise, t = 0 is data, x_t = alpha x0 + sigma eps.

    Args:
        step: the traced model, (x, t, s, condition) -> x_s, x0, eps, and alpha, sigma, alpha', sigma' at t and at s.
        decoder: from latents to images; None for a model of the data itself.
    """

    step: Any
    decoder: Any
    model_cpu_offload_seq = "step->decoder"
    _optional_components = ["decoder"]

    def __init__(self, step: Any, decoder: Any = None) -> None:
        super().__init__()
        self.register_modules(step=step, decoder=decoder)

    @torch.no_grad()
    def __call__(
        self,
        condition: Any = None,
        *,
        class_labels: Any = None,
        prompt: Any = None,
        negative: Any = None,
        batch_size: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        times: list[float] | None = None,
        clip: bool | None = None,
        latents: Tensor | None = None,
        generator: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Samples.

        Args:
            condition: one entry a sample: class indices or names, prompts, vectors, or images (B, C, H, W) in [-1, 1],
                whichever the model was trained on. None for none.
            class_labels, prompt: other names for `condition`.
            negative: what guidance leads away from, in the place of no condition.
            batch_size: samples where there is no condition.
            num_inference_steps, guidance_scale, sampler, clip: by default as its training said. guidance_scale is w of
                u + w (c - u): 1 is the conditional model. Samplers are ddim, euler and heun; a model of jumps has its
                own. clip keeps every x0 inside [-1, 1].
            times: falling times from 1 to 0, in the place of num_inference_steps.
            latents: standard normal noise (B, *dims) to start from.
            generator: of that noise, where it is not given; one, or one a sample.
            output_type: "pil", "np" in [0, 1], "pt" in [0, 1], or "latent" for the states themselves.

        Raises:
            ValueError: a condition, sampler or number of steps that the model does not have.
        """
        facts, default = self.step.facts, self.step.facts["sample"]
        given = next((one for one in (condition, class_labels, prompt) if one is not None), None)
        cond = self._read(given, None if latents is None else len(latents), batch_size)
        num = batch_size if latents is None else len(latents)
        num = num if cond is None else len(cond)
        null = cond if cond is None else self._read(negative, num, num)
        guidance = default["guidance"] if guidance_scale is None else guidance_scale
        guidance = 1.0 if given is None else guidance
        if guidance != 1 and not facts["is_guidable"]:
            raise ValueError("this model cannot be guided: leave guidance_scale out.")
        how, clip = sampler or default["sampler"], default["clip"] if clip is None else clip
        if not facts["jumps"] and how not in SAMPLERS:
            raise ValueError(f"unknown sampler {how!r}. Known: {', '.join(SAMPLERS)}.")
        eps = randn_tensor((num, *facts["dims"]), generator=generator) if latents is None else latents
        x = eps.to(self.step.device, torch.float32) * facts["sigma"]
        falling = times or self._times(num_inference_steps or default["num_steps"])

        def ask(x: Tensor, t: float, s: float) -> tuple[Tensor, Tensor, list[float]]:
            return self._estimate(x, t, s, cond, null, guidance, bool(clip))

        for t, s in self.progress_bar(list(pairwise(falling))):
            x0, noise, k = ask(x, t, s)
            if facts["jumps"] or how == "ddim" or k[5] == 0 or not all(map(math.isfinite, k)):
                x = x0 if k[5] == 0 else k[4] * x0 + k[5] * noise
                continue
            slope = k[2] * x0 + k[3] * noise
            if how == "heun":
                x0, noise, _ = ask(x + (s - t) * slope, s, s)
                slope = (slope + k[6] * x0 + k[7] * noise) / 2
            x = x + (s - t) * slope
        images = self._shown(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _estimate(
        self, x: Tensor, t: float, s: float, cond: Tensor | None, null: Tensor | None, guidance: float, clip: bool
    ) -> tuple[Tensor, Tensor, list[float]]:
        """x0 and eps, guided, and the eight coefficients."""
        when = [torch.full((len(x),), one, dtype=torch.float64, device=x.device) for one in (t, s)]
        branches = [cond] if guidance == 1 else [null] if guidance == 0 else [null, cond]
        found = [self.step(x, *when, *([] if one is None else [one]))[1:] for one in branches]
        x0, eps = found[0][:2]
        k: list[float] = found[0][2][0].tolist()
        if len(found) == 2:
            x0, eps = (u + guidance * (c - u) for u, c in zip(found[0][:2], found[1][:2], strict=True))
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = (x - k[0] * x0) / k[1]
        return x0, eps, k

    def _times(self, num_steps: int) -> list[float]:
        tables = self.step.facts["times"]
        if tables is None:
            return [1 - i / num_steps for i in range(num_steps)] + [0.0]
        if str(num_steps) not in tables:
            raise ValueError(
                f"no grid of {num_steps} steps was exported. Known: {', '.join(tables)}. Give `times`, or one of these."
            )
        return list(tables[str(num_steps)])

    def _read(self, given: Any, noises: int | None, batch_size: int) -> Tensor | None:
        """Conditions as the program takes them, a row a sample; the null one where none is given."""
        known = self.step.facts["condition"]
        if known is None:
            if given is not None:
                raise ValueError("this model is unconditional: it takes no condition.")
            return None
        dtype = getattr(torch, known["dtype"])
        if given is None:
            row = torch.tensor(known["null"], dtype=dtype) * torch.ones(known["shape"], dtype=dtype)
            return row.expand(batch_size if noises is None else noises, *known["shape"]).to(self.step.device)
        several = list(given) if isinstance(given, (list, tuple, Tensor)) else [given]
        rows = torch.stack([self._row(one, known, dtype) for one in several])
        if noises is not None and len(rows) == 1:
            rows = rows.expand(noises, *rows.shape[1:])
        if noises is not None and len(rows) != noises:
            raise ValueError(f"{noises} samples want as many conditions, or one; got {len(rows)}.")
        return rows.to(self.step.device)

    def _row(self, given: Any, known: dict[str, Any], dtype: torch.dtype) -> Tensor:
        takes, shape = known["takes"], list(known["shape"])
        if takes == "class labels":
            index = known["names"].index(given) if given in known["names"] else int(given)
            if not 0 <= index < len(known["names"]):
                raise ValueError(f"label {given!r} is unknown. Known: {', '.join(known['names'])}.")
            return torch.tensor(index, dtype=dtype)
        if takes == "texts":
            said = list(str(given).strip().encode()[: shape[0]])
            return torch.tensor(said + [-1] * (shape[0] - len(said)), dtype=dtype)
        row = torch.as_tensor(given, dtype=dtype)
        if takes == "vectors" and row.shape[0] == shape[0] - 1:
            row = torch.cat([torch.ones(1, dtype=dtype), row])
        if takes == "images" and row.shape[0] == shape[0] - 1:
            row = torch.cat([row, torch.tensor(known["known"], dtype=dtype).expand(1, *shape[1:])])
        if list(row.shape) != shape:
            raise ValueError(f"one condition of this model has shape {shape}, got {list(row.shape)}.")
        return row

    def _shown(self, x: Tensor, output_type: str) -> Any:
        if output_type == "latent" or not self.step.facts["is_image"]:
            return x if output_type in ("latent", "pt") else x.cpu().numpy()
        images = (x if self.decoder is None else self.decoder(x)).clamp(-1, 1) / 2 + 0.5
        if output_type == "pt":
            return images
        array = images.permute(0, 2, 3, 1).cpu().numpy().astype(np.float32)
        return array if output_type == "np" else self.numpy_to_pil(array)
