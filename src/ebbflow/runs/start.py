"""Starting a run from another one's averaged weights: what fits is taken, and what does not is named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ebbflow.config import RunConfig, kind_of
from ebbflow.core.entries import spelt
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.runs.build import clock_of
from ebbflow.runs.folder import Run, open_run
from ebbflow.training.task import Joined

SHOWN = 3  # names in a message


def start_from(net: nn.Module, config: RunConfig) -> str:
    """Put the weights of `config.init.run` into a fresh `net`; says what was taken, what stayed as it was initialised,
    and what meant something else there.

    Raises:
        ConfigError: no such run, one with a net of another kind, or weights that do not fit where init.partial is off.
    """
    assert config.init.run is not None
    try:
        run = open_run(config.init.run)
        tensors = Joined.inner_of(run.checkpoint.tensors(run.averaged))
    except CheckpointError as error:
        raise ConfigError(f"`init_from`: {error}") from error
    kinds = [kind_of("net", one.net) for one in (run.config, config)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"`init_from`: {config.init.run} holds a net of kind {kinds[0]!r}, and this run's is {kinds[1]!r}. Use "
            f"net.kind={kinds[0]}."
        )
    fresh = _fill(net, tensors, config)
    taken = f"{len(net.state_dict()) - len(fresh)} tensors of {run.checkpoint.folder}"
    rest = f", {_named(fresh)} as initialised" if fresh else ""
    return f"{taken}{rest}{_other_meaning(run, config)}"


def _fill(net: nn.Module, tensors: dict[str, Tensor], config: RunConfig) -> list[str]:
    """Load what fits; the names that stay as they were."""
    own = net.state_dict()
    fits = {name: value for name, value in tensors.items() if name in own and own[name].shape == value.shape}
    missing = [name for name in own if name not in tensors]
    other = [name for name in own if name in tensors and name not in fits]
    unused = [name for name in tensors if name not in own]
    groups = {"new here": missing, "of another shape": other, "not part of this net": unused}
    if (missing or other or unused) and not config.init.partial:
        said = "; ".join(f"{what}: {_named(names)}" for what, names in groups.items() if names)
        raise ConfigError(
            f"`init_from`: the weights of {config.init.run} do not fit this net ({said}). Give it the same net and "
            "conditioning, or take what fits by `init_partial`."
        )
    if not fits:
        raise ConfigError(f"`init_from`: nothing in {config.init.run} fits this net. Give it the same net.")
    net.load_state_dict(fits, strict=False)
    return missing + other


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def _other_meaning(run: Run, config: RunConfig) -> str:
    """What the weights have to learn anew."""
    before, here = run.config.objective, config.objective
    differs = {
        "prediction": (spelt(before.prediction), spelt(here.prediction)),
        "clock": (spelt(clock_of(run.config)), spelt(clock_of(config))),
        "path": (kind_of("path", run.config.path), kind_of("path", config.path)),
    }
    said = [f"{what} {there!r}, here {now!r}" for what, (there, now) in differs.items() if there != now]
    return f"; it was trained on {' and '.join(said)}" if said else ""
