"""Samples of a model that goes by pictures, beside the pictures themselves, enlarged by bicubic interpolation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ebbflow.conditioning import ImageConditioner
from ebbflow.core.condition import Condition
from ebbflow.data import Dataset, Splits, to_uint8
from ebbflow.methods.editing import psnr
from ebbflow.metrics.measure import table
from ebbflow.metrics.yardstick import Made, Yardstick
from ebbflow.runs.opened import Opened
from ebbflow.runs.pictures import images_of

CHUNK = 250  # pictures looked at together


def source_of(splits: Splits) -> Dataset:
    """The data whose pictures a model is measured by."""
    return splits.held_out if len(splits.held_out) else splits.train


def dealt_images(reader: ImageConditioner, splits: Splits, num: int) -> list[Condition]:
    """The pictures of the held-out data in turn, `num` of them."""
    shown = images_of(reader, source_of(splits), num)
    return [shown[i % len(shown)] for i in range(num)]


def beside_given(model: Opened, splits: Splits, made: Made, yardstick: Yardstick, num: int) -> dict[str, Any]:
    """PSNR in decibels of the first samples against the images that their pictures are of, and that and the Frechet
    distance of the pictures as they were given, enlarged; {} for a model that goes by none."""
    reader, data = model.reader, source_of(splits)
    if not isinstance(reader, ImageConditioner):
        return {}
    given = torch.cat([enlarged(reader, data, rows) for rows in torch.arange(min(num, len(data))).split(CHUNK)])
    rows = torch.arange(len(made.first)) % len(given)
    truth, first = data.x0(rows), made.first.float() / 127.5 - 1
    seen = Made.of([yardstick.features.of(part) for part in given.split(CHUNK)], to_uint8(given[:1]))
    plain = replace(yardstick.comparison(seen, None), labels=None)
    return {
        "psnr": float(psnr(first, truth).mean()),
        "psnr_of_given": float(psnr(given[rows], truth).mean()),
        "frechet_of_given": table(plain)["frechet"],
    }


def enlarged(reader: ImageConditioner, data: Dataset, rows: Tensor) -> Tensor:
    """Pictures as images of the data's own shape: bicubically enlarged, grey in all colours, in whole levels."""
    x, (channels, *size) = reader.pictures(data, rows), data.dims
    if list(x.shape[2:]) != size:
        x = interpolate(x, size=size, mode="bicubic", align_corners=False)
    x = x if x.shape[1] == channels else x[:, :1].expand(-1, channels, -1, -1)
    return to_uint8(x).float() / 127.5 - 1
