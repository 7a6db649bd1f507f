"""Restoring a degraded image with an open model: the operator, the measurement, and how far the results are from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ebbflow.core.entries import entry
from ebbflow.core.noise import generator_for
from ebbflow.core.operators import OPERATORS, LinearOperator, Mask, Operator
from ebbflow.data import folder as picture_files
from ebbflow.errors import ConfigError, DataError
from ebbflow.methods.editing import psnr
from ebbflow.methods.guidance import Measurement
from ebbflow.requests.sampling import RestoreRequest
from ebbflow.runs.guides import Guides
from ebbflow.runs.opened import Opened, require_images
from ebbflow.runs.pictures import MASK_LEVEL, read_picture
from ebbflow.runs.plan import Plan, conditions_of, named_any, plan_beside

NUM = 8  # restorations when nothing is said


def restore_plan(model: Opened, request: RestoreRequest) -> Plan:
    """What a restoration's request means for a model, checked, with a measurement that is yet to come.

    Raises:
        ConfigError, ValueError: what the model or the operator cannot do.
    """
    require_images(model, "restoration")
    if model.space is not None:
        raise ConfigError("restoration is linear in pixels, and this model works on latents. Use a model of pixels.")
    operator = operator_of(model, request)
    measurement = Measurement(
        operator=operator,
        y=torch.zeros(1, *operator.dims(model.dims)),
        noise=request.noise,
        sigma_data=request.sigma_data,
    )
    rows = conditions_of(model, request) if named_any(request) else ()
    return plan_beside(model, request, rows, NUM, Guides(measured=measurement, restoration=request.method))


def operator_of(model: Opened, request: RestoreRequest) -> Operator:
    """The operator of a request: a name of `OPERATORS` with its options, an operator, or a linear function of images.

    Raises:
        ConfigError: none, or an unknown name or option.
        DataError: a mask that cannot be read.
        ValueError: an option out of range.
    """
    if request.operator is None:
        raise ConfigError("say how the image was degraded, by an `operator`: " + ", ".join(OPERATORS) + ".")
    if not isinstance(request.operator, str):
        own = request.operator
        return own if isinstance(own, Operator) else LinearOperator(function=own)
    found: Operator = entry(OPERATORS, {"kind": request.operator, **(request.operator_options or {})}, "operator")
    if request.mask is None:
        return found
    if not isinstance(found, Mask):
        raise ConfigError("`mask` belongs to operator 'mask'. Leave it out.")
    picture = picture_files.read_picture(request.mask, size=(model.dims[1], model.dims[2]), channels=1)
    return replace(found, known=torch.from_numpy(picture.pixels)[0] < MASK_LEVEL)


def measurement_of(plan: Plan) -> Measurement:
    """The measurement in a plan that `restore_plan` made."""
    assert plan.guides.measured is not None
    return plan.guides.measured


def measured_of(model: Opened, plan: Plan, degraded: Tensor) -> tuple[Plan, Tensor]:
    """The plan with what was measured, and that as an image (1, *dims).

    Raises:
        ConfigError: a measurement of another shape.
    """
    measurement = measurement_of(plan)
    want = tuple(measurement.y.shape[1:])
    y = degraded[None] if degraded.ndim == len(want) else degraded
    if tuple(y.shape) != (1, *want):
        got, wanted = ("x".join(map(str, dims)) for dims in (y.shape[1:], want))
        raise ConfigError(
            f"a measurement of {wanted} is wanted, what the operator makes of this model's images; got {got}."
        )
    guides = replace(plan.guides, measured=replace(measurement, y=y.float()))
    return replace(plan, guides=guides), measurement.operator.shown(y.float(), model.dims).clamp(-1, 1)


def degrade(plan: Plan, truth: Tensor) -> Tensor:
    """What the plan's operator makes of an image (1, *dims), with its noise, drawn from the plan's first seed."""
    measurement = measurement_of(plan)
    y = measurement.operator.measure(truth)
    drawn = torch.randn(*y.shape, generator=generator_for(plan.seeds[0], "measurement"))
    return y + measurement.noise * drawn


def read_degraded(path: Path, model: Opened, plan: Plan) -> Tensor:
    """The picture of a measurement, float32 (1, *dims) in [-1, 1].

    Raises:
        DataError: unreadable, or of another size than the operator makes.
    """
    want = tuple(measurement_of(plan).y.shape[1:])
    if len(want) != 3:
        raise ConfigError(f"this operator makes no picture but {'x'.join(map(str, want))} numbers. Give a `truth`.")
    size = picture_files.read_picture(path, channels=want[0]).file_size
    if size != (want[2], want[1]):
        raise DataError(
            f"{path} has {size[0]}x{size[1]} pixels; the operator makes {want[2]}x{want[1]} of this model's images. "
            "Give it at that size, or the whole image as `truth`."
        )
    return read_picture(path, want)[0]


def distances(x: Tensor, truth: Tensor, given: Tensor) -> dict[str, float]:
    """PSNR in decibels against the truth: of the restorations' mean over images, of their mean image, and of what was
    given."""
    x = x.clamp(-1, 1)
    return {
        "psnr": float(psnr(x, truth).mean()),
        "psnr_of_mean": float(psnr(x.mean(0, keepdim=True), truth)),
        "psnr_of_given": float(psnr(given, truth)),
    }
