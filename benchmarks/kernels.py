"""The parts of a training step by themselves: ways to compute the same thing, forward and backward, taking turns.

`OMP_NUM_THREADS=1 python -m benchmarks.kernels` prints milliseconds, and how often as fast as the first each way is.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import machine
from benchmarks.arena import ratios, turns
from benchmarks.shared import BATCH
from ebbflow.nets.fused import GELU, Linear, fused

ROUNDS, TOKENS = 9, 49
Way = Callable[[Tensor], Tensor]
LINEARS = ((256, 768), (256, 256), (256, 1024), (1024, 256))  # of a DiT 256 wide
LEVELS = ((32, 28), (64, 14), (128, 7))  # channels and size of the levels of a U-Net


def within(layer: nn.Module) -> Way:
    """A layer as a training step computes it."""

    def run(x: Tensor) -> Tensor:
        with fused():
            out: Tensor = layer(x)
        return out

    return run


def last(way: Way) -> Way:
    """A way in channels_last."""
    return lambda x: way(x.contiguous(memory_format=torch.channels_last))


def upsampled(conv: nn.Conv2d) -> dict[str, Way]:
    """Nearest neighbours and a 3x3 convolution, and the transposed convolution of 4/9 of the products that is the same:
    its 4x4 kernel is the 3x3 one summed over the four places that a pixel becomes."""

    def transposed(x: Tensor) -> Tensor:
        wide = functional.pad(conv.weight.flip(2, 3).transpose(0, 1), (1, 1, 1, 1))
        kernel = wide[..., :-1, :-1] + wide[..., 1:, :-1] + wide[..., :-1, 1:] + wide[..., 1:, 1:]
        return functional.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)

    return {"neighbours, 3x3": lambda x: conv(functional.interpolate(x, scale_factor=2.0)), "transposed": transposed}


def contests(batch: int, dtype: torch.dtype) -> dict[str, tuple[Tensor, dict[str, Way]]]:
    """What is compared: the input, and the ways to compute the same of it."""
    found: dict[str, tuple[Tensor, dict[str, Way]]] = {}
    for wide_in, wide in LINEARS:
        layer = Linear(wide_in, wide).to(dtype)
        x = torch.randn(batch, TOKENS, wide_in, dtype=dtype)
        found[f"linear {wide_in} to {wide}"] = x, {"torch": layer, "fused": within(layer)}
    found["gelu"] = torch.randn(batch, TOKENS, 1024, dtype=dtype), {"torch": GELU(), "fused": within(GELU())}
    for channels, size in LEVELS:
        x, shape = torch.randn(batch, channels, size, size, dtype=dtype), f"{channels}x{size}x{size}"
        conv, norm = nn.Conv2d(channels, channels, 3, padding=1).to(dtype), nn.GroupNorm(8, channels).to(dtype)
        found[f"3x3 convolution {shape}"] = x, {"channels first": conv, "channels last": last(conv)}
        found[f"group norm {shape}"] = x, {"channels first": norm, "channels last": last(norm)}
        found[f"upsampling {shape}"] = x, upsampled(conv)
    return found


def trained(way: Way, x: Tensor) -> Tensor:
    """Forward and backward; the output."""
    x = x.detach().requires_grad_()
    out = way(x)
    out.backward(torch.ones_like(out))
    return out.detach()


def main() -> None:
    """Print the milliseconds of every way."""
    now = machine.clock()
    for dtype in (torch.float32, *((torch.bfloat16,) if machine.multiplies_bf16() else ())):
        for name, (x, ways) in contests(BATCH, dtype).items():

            def seconds(way: str, x: Tensor = x, ways: dict[str, Way] = ways) -> float:
                began = now()
                trained(ways[way], x)
                return now() - began

            found = turns(ways, seconds, ROUNDS)
            compared = ratios(found, next(iter(ways)))
            said = (f"{way} {1000 * median(of):.2f} ms x {compared[way]['median']:.2f}" for way, of in found.items())
            print(f"{str(dtype).removeprefix('torch.')} {name}: {', '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
