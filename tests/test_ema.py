"""Laws of averages of the weights: their closed forms, and any length from a few snapshots after the training."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ebbflow.cli.app import run_app
from ebbflow.config import merge, parse, to_dict
from ebbflow.data import load_dataset
from ebbflow.errors import ConfigError
from ebbflow.runs import Trainer, open_run, task_of
from ebbflow.runs.averages import average_of
from ebbflow.runs.snapshots import keep_snapshot, snapshots
from ebbflow.training.ema import EMA, Profile, combination, exponent_of, snapshot_interval

LENGTHS = (0.02, 0.05, 0.1, 0.2, 0.28)
CONFIG = {
    "net": {"kind": "unet", "channels": [8], "num_heads": 2, "clock_dim": 16},
    "train": {"num_steps": 80, "batch_size": 4, "save_every": 0, "sample_every": 0, "held_out_every": 0}
    | {"held_out_size": 16, "warmup_steps": 0},
    "ema": {"kind": "power", "num_snapshots": 3},
    "engine": {"device": "cpu", "precision": "fp32"},
    "sample": {"num_steps": 1},
}


def density(length: float, tau: Tensor, step: float) -> Tensor:
    g = exponent_of(length)
    return (g + 1) * tau**g / step ** (g + 1)


def grid(step: float, num: int = 200_001) -> Tensor:
    return torch.linspace(0, step, num, dtype=torch.float64)


class Walk(nn.Module):
    """Weights on a random walk with a drift, as training has them."""

    def __init__(self, size: int = 400) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))
        self.generator = torch.Generator().manual_seed(0)
        self.drift = torch.randn(size, generator=self.generator, dtype=torch.float64)

    @torch.no_grad()
    def go(self, step: int) -> None:
        noise = torch.randn(self.weight.shape, generator=self.generator, dtype=torch.float64)
        self.weight += noise + self.drift / step**0.5


@pytest.mark.parametrize("length", LENGTHS)
def test_the_length_is_the_standard_deviation_of_the_profile(length: float) -> None:
    tau = grid(3.0)
    p = density(length, tau, 3.0)
    mass, mean = torch.trapezoid(p, tau), torch.trapezoid(p * tau, tau)
    spread = torch.trapezoid(p * (tau - mean) ** 2, tau).sqrt() / 3.0
    assert float(mass) == pytest.approx(1, abs=1e-6) and float(spread) == pytest.approx(length, rel=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_each_step_weighs_what_the_profile_has_between_it_and_the_one_before(length: float) -> None:
    values = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0]
    module = nn.Linear(1, 1, bias=False)
    ema = EMA(module, lengths=(length, 0.15))
    for value in values:
        nn.init.constant_(module.weight, value)
        ema.update(module)
    g, n = exponent_of(length), len(values)
    shares = [(k / n) ** (g + 1) - ((k - 1) / n) ** (g + 1) for k in range(1, n + 1)]
    assert sum(shares) == pytest.approx(1)
    assert float(ema.module.weight.detach()) == pytest.approx(
        sum(s * v for s, v in zip(shares, values, strict=True)), rel=1e-5
    )


def test_products_of_profiles_are_their_integrals() -> None:
    for a, b in (((0.05, 100), (0.1, 250)), ((0.2, 300), (0.05, 40)), ((0.1, 70), (0.1, 70))):
        one, other = Profile(length=a[0], step=a[1]), Profile(length=b[0], step=b[1])
        tau = grid(min(a[1], b[1]))
        numeric = torch.trapezoid(density(a[0], tau, a[1]) * density(b[0], tau, b[1]), tau)
        assert one.times(other) == pytest.approx(float(numeric), rel=1e-5)
        assert one.times(other) == pytest.approx(other.times(one))


def test_what_is_known_is_found_and_what_lies_between_nearly() -> None:
    known = [Profile(length=length, step=step) for step in range(125, 1001, 125) for length in (0.1, 0.05)]
    factors, error = combination(known, known[-1])
    assert error < 1e-6 and factors[-1] == pytest.approx(1, abs=1e-6)
    for length in (0.05, 0.07, 0.1, 0.14):
        factors, error = combination(known, Profile(length=length, step=1000))
        assert error < 0.04 and sum(factors) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("most", [1, 4, 16])
def test_snapshots_stay_few_however_long_the_run(most: int) -> None:
    for step in (1, 15, 16, 100, 999, 10_000, 123_456):
        interval = snapshot_interval(step, most)
        assert step // interval <= most and (interval == 16 or step // (interval // 2) > most)
        assert all(interval % snapshot_interval(earlier, most) == 0 for earlier in range(1, step, 1 + step // 50))


@pytest.mark.parametrize("length", [0.06, 0.08, 0.15])
def test_a_length_that_was_not_kept_is_that_which_was_followed(length: float, tmp_path: Path) -> None:
    """The error of the weights is small beside how far the averages lie apart."""
    walk, num = Walk(), 1000
    kept, wanted = EMA(walk, lengths=(0.1, 0.05)), EMA(walk, lengths=(length,))
    for step in range(1, num + 1):
        walk.go(step)
        kept.update(walk)
        wanted.update(walk)
        keep_snapshot(tmp_path, step, kept, 16)
    files = snapshots(tmp_path)
    assert 8 <= len(files) <= 16
    from safetensors.torch import load_file

    known = [(at, load_file(path)) for at, path in files.items()] + [
        (num, {f"{i}.weight": m.weight.detach() for i, m in enumerate(kept.modules)})  # type: ignore[misc]
    ]
    profiles = [Profile(length=one, step=at) for at, _ in known for one in kept.lengths]
    factors, _ = combination(profiles, Profile(length=length, step=num))
    made = sum(f * known[i // 2][1][f"{i % 2}.weight"] for i, f in enumerate(factors))
    direct = wanted.module.weight.detach()
    apart = (direct - walk.weight.detach()).norm()  # type: ignore[operator]
    assert float((made - direct).norm() / apart) < 0.02  # type: ignore[operator]


def trained(folder: Path, stop_at: int = 0) -> Trainer:
    asked = iter(range(1, 1000))
    task = task_of(parse(CONFIG), load_dataset("digits"), folder)
    trainer = Trainer(task, should_stop=lambda: next(asked) == stop_at)
    list(trainer.events())
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ema") / "run"
    trained(folder)
    return folder


def test_a_resumed_run_leaves_the_same_snapshots(run: Path, tmp_path: Path) -> None:
    trained(tmp_path / "parts", stop_at=40)
    (tmp_path / "parts" / "averages" / "step_000064.safetensors").write_bytes(b"of a later step, that is done again")
    trained(tmp_path / "parts")
    a, b = snapshots(run), snapshots(tmp_path / "parts")
    assert [*a] == [*b] == [32, 64]
    assert all(a[step].read_bytes() == b[step].read_bytes() for step in a)


def test_lengths_that_were_kept_are_the_checkpoints_own(run: Path) -> None:
    opened = open_run(run)
    for length, part in ((0.10, "ema"), (0.05, "ema_1")):
        average, own = average_of(opened, length), opened.checkpoint.tensors(part)
        assert average.error < 1e-6 and average.tensors.keys() == own.keys()
        for name, value in own.items():
            torch.testing.assert_close(average.tensors[name], value, rtol=1e-4, atol=1e-6)


def test_it_is_measured_drawn_and_kept_from_the_command_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "ema.png"
    command = f"ema {shlex.quote(str(run))} --lengths 0.05,0.1,0.2 --output {shlex.quote(str(picture))} --device cpu"
    assert run_app([*shlex.split(command), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["length"] for row in rows] == [0.05, 0.1, 0.2] and picture.stat().st_size > 1000
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert rows[1]["held_out"] == pytest.approx(last["held_out"], rel=1e-5), "the run's own, by its own trainer"
    assert run_app(shlex.split(command)) == 0 and "best" in capsys.readouterr().out
    new = tmp_path / "new"
    assert run_app(["ema", str(run), "--lengths", "0.15", "--into", str(new), "--device", "cpu"]) == 0
    out = ["--output", str(tmp_path / "s.npz"), "--num", "2", "--device", "cpu"]
    assert run_app(["sample", "--ckpt", str(new), *out]) == 0
    made, expected = open_run(new).denoiser(), average_of(open_run(run), 0.15).tensors
    assert all(torch.equal(value, expected[name]) for name, value in made.net.state_dict().items())  # type: ignore[union-attr]
    capsys.readouterr()
    assert run_app(["info", str(new), "--json"]) == 0 and json.loads(capsys.readouterr().out)["ema_length"] == 0.15


def test_what_cannot_be_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    for flags, said in (
        (["--lengths", "0.5"], "--lengths must be in [0.0001, 0.28], got 0.5"),
        (["--into", str(tmp_path / "x")], "--into keeps one average. Give one of --lengths"),
        (["--lengths", "0.1", "--into", str(tmp_path / "taken")], "is there already. Choose another --into"),
    ):
        assert run_app(["ema", str(run), *flags]) == 2
        assert said in capsys.readouterr().err
    old = Path(__file__).parent / "data" / "format1" / "model"
    assert run_app(["ema", str(old)]) == 2
    assert "keeps an exponential average, of which no other can be made" in capsys.readouterr().err


def test_the_configuration_says_which() -> None:
    assert to_dict(parse({"ema": {"decay": 0.9}}))["ema"] == {"kind": "exponential", "decay": 0.9}
    power = parse(merge({"ema": {"decay": 0.9}}, {"ema": {"kind": "power", "lengths": [0.06]}}))
    assert parse(json.loads(json.dumps(to_dict(power)))) == power
    assert to_dict(power)["ema"] == {"kind": "power", "lengths": (0.06,), "num_snapshots": 16}
    for wrong, said in (
        ({"kind": "power", "lengths": [0.5]}, r"must be in \[0.0001, 0\.28\], got 0\.5"),
        ({"kind": "power", "lengths": []}, "must be one number or more, all different"),
        ({"kind": "power", "decay": 0.9}, r"unknown key 'ema\.decay' \(ema of kind 'power'\)"),
        ({"decay": 1.0}, r"`ema\.decay` must be in \[0, 1\), got 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse({"ema": wrong})


def test_the_commands_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "concepts.md").read_text(encoding="utf-8")
    block = next(part for part in text.split("```sh\n")[1:] if "ebbflow ema" in part).partition("```")[0]
    for line in block.splitlines():
        few = "--max-steps 2 --data digits --batch-size 4 --set net.channels=[8] --set net.num_heads=2"
        quick = line.replace("--minutes 1", f"{few} --device cpu --set train.held_out_size=8")
        assert run_app(shlex.split(quick)[1:]) == 0, line
    assert (tmp_path / "ema.png").is_file() and (tmp_path / "runs" / "power_08" / "ema.safetensors").is_file()
