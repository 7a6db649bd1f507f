"""A traced program as a part of a pipeline of diffusers: it needs torch alone, not the code that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass


class Program(nn.Module):
    """What `torch.export.save` wrote into program.pt2, with config.json beside it; float32, without gradients.

    The file holds nothing pickled, but torch's reader would unpickle what somebody else's held: open those you trust.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.facts: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        self.exported = torch.export.load(self.folder / "program.pt2")
        self.run = self.exported.module()
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @classmethod
    def from_pretrained(cls, folder: str | Path, **unused: Any) -> Self:
        """The program in a folder, on the CPU."""
        return cls(folder)

    def save_pretrained(self, folder: str | Path, **unused: Any) -> None:
        """Copy the folder's files."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for file in self.folder.iterdir():
            if file.is_file():
                (Path(folder) / file.name).write_bytes(file.read_bytes())

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same on another device; its numbers stay float32.

        Raises:
            ValueError: another dtype.
        """
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        if dtype not in (None, torch.float32):
            raise ValueError(f"this model was exported in float32, got {dtype}. Leave the dtype out.")
        if device is not None and device != self.device:
            self.run, self.device = move_to_device_pass(self.exported, str(device)).module(), torch.device(device)
        return self

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Any:
        """What the program makes of tensors on its device."""
        return self.run(*inputs)
