"""Samplers: generator functions from noise to data on any path. Adding one is one function and one row here."""

from ebbflow.errors import ConfigError, choose
from ebbflow.methods.samplers.adaptive import dopri5
from ebbflow.methods.samplers.ancestral import ddim, ddpm
from ebbflow.methods.samplers.base import Sampler, Step
from ebbflow.methods.samplers.churn import edm
from ebbflow.methods.samplers.exponential import dpmpp_2m, dpmpp_2m_sde, unipc
from ebbflow.methods.samplers.langevin import pc
from ebbflow.methods.samplers.maps import flow_map
from ebbflow.methods.samplers.multistep import deis, pndm
from ebbflow.methods.samplers.ode import ab2, euler, heun, midpoint, rk4
from ebbflow.methods.samplers.restart import restart
from ebbflow.methods.samplers.sde import sde

SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "rk4": rk4,
    "ab2": ab2,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "sde": sde,
    "pc": pc,
    "edm": edm,
    "dopri5": dopri5,
    "unipc": unipc,
    "deis": deis,
    "pndm": pndm,
    "restart": restart,
    "flow_map": flow_map,
}


def sampler_of(given: str | Sampler) -> Sampler:
    """The sampler that is meant: a name of `SAMPLERS`, or the sampler itself.

    Raises:
        ConfigError: unknown name, or no sampler.
    """
    if not isinstance(given, Sampler | str):
        raise ConfigError(f"a sampler is a name, or a function decorated with ef.sampler(order=...); got {given!r}.")
    return given if isinstance(given, Sampler) else choose(SAMPLERS, given, "sampler")


__all__ = ["SAMPLERS", "Sampler", "Step", "sampler_of"]
