"""The peers: which release of which library, and what it needs; each has a file here with its loops."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A release of a library and its environment.

    Args:
        requirement: the pinned release; installed without what it asks for.
        needs: what the parts that are used here import besides PyTorch and the packages of ebbflow.
        without: modules that only stand in, since the library imports them and the benchmark never uses them.
    """

    requirement: str
    needs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """The name on PyPI."""
        return self.requirement.partition("==")[0]


PEERS: dict[str, Peer] = {
    "diffusers": Peer(
        requirement="diffusers==0.42.1",
        needs=("accelerate==1.15.0", "huggingface-hub>=1.32", "importlib-metadata", "regex", "requests"),
    ),
    "lucidrains": Peer(
        requirement="denoising-diffusion-pytorch==2.3.4",
        needs=("accelerate==1.15.0", "einops", "ema-pytorch>=0.4.2", "scipy"),
        without=("torchvision.transforms", "torchvision.utils", "pytorch_fid"),
    ),
    "torchcfm": Peer(requirement="torchcfm==1.0.7", needs=("pot", "torchdiffeq", "scipy")),
    "flow_matching": Peer(requirement="flow-matching==1.0.10", needs=("torchdiffeq",)),
    "smalldiffusion": Peer(
        requirement="smalldiffusion==0.5.0",
        needs=("accelerate==1.15.0", "einops", "torch-ema"),
        without=("torchvision.transforms",),
    ),
    "k_diffusion": Peer(
        requirement="k-diffusion==0.1.1.post1",
        needs=("accelerate==1.15.0", "einops", "dctorch", "jsonmerge", "torchdiffeq", "torchsde", "scipy"),
        without=("torchvision.transforms", "skimage", "cleanfid.inception_torchscript", "clip"),
    ),
    "azula": Peer(requirement="azula==0.11.1", needs=("einops",), without=("torchvision", "gdown")),
}
VARIANTS = {"diffusers_bf16": "diffusers"}  # entries that share the environment of a peer, and are no peer of their own
OURS = ("ebbflow", "ebbflow_fp32", "plain")
