"""Laws of degradations and of restoration: operators against dense matrices, methods against the exact posterior of
Gaussian data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import F64, PATH_CASES, normal, registered_path
from PIL import Image
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.conditioning.base import DataFacts
from ebbflow.core.operators import OPERATORS, Blur, Downsample, LinearOperator, Mask, Operator, regions
from ebbflow.core.paths import Path as NoisePath
from ebbflow.data import load_dataset
from ebbflow.errors import ConfigError
from ebbflow.methods.editing import Inpainting
from ebbflow.methods.guidance import DDNM, RESTORATIONS, Measurement, PiGDM
from ebbflow.methods.oracles import Gaussian, GaussianMixture
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs.guides import open_loss
from ebbflow.runs.pictures import read_mask

DIMS = (3, 4, 4)


def rolled(x: Tensor) -> Tensor:
    """A linear function that is none of the ready ones: differences along a row, of two channels."""
    return x[:, :2] - 0.5 * x[:, :2].roll(1, dims=3)


CASES: dict[str, Operator] = {
    "downsample": Downsample(factor=2),
    "grey": OPERATORS["grey"],
    "mask": Mask(region="centre"),
    "blur": Blur(sigma=0.6),
    "linear": LinearOperator(function=rolled),
}
each_operator = pytest.mark.parametrize("operator", CASES.values(), ids=CASES)
each_method = pytest.mark.parametrize("method", RESTORATIONS.values(), ids=RESTORATIONS)


def matrix(operator: Operator, dims: tuple[int, ...] = DIMS) -> Tensor:
    """A, (m, d)."""
    d = torch.Size(dims).numel()
    return operator.measure(torch.eye(d, dtype=F64).reshape(d, *dims)).reshape(d, -1).T


def test_every_operator_is_tested() -> None:
    assert set(CASES) == {*OPERATORS, "linear"}


@each_operator
def test_it_is_linear_and_tells_its_shape(operator: Operator) -> None:
    x, y = normal(2, *DIMS, seed=1), normal(2, *DIMS, seed=2)
    both = operator.measure(2 * x - 3 * y)
    torch.testing.assert_close(both, 2 * operator.measure(x) - 3 * operator.measure(y))
    assert tuple(both.shape[1:]) == operator.dims(DIMS)
    assert tuple(operator.shown(both, DIMS).shape[1:]) == DIMS


@each_operator
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_its_inverse_is_that_of_its_matrix(operator: Operator, noise: float) -> None:
    a, y = matrix(operator), operator.measure(normal(5, *DIMS, seed=3))
    flat = y.flatten(1).T
    inverse = torch.linalg.pinv(a) if noise == 0 else a.T @ torch.linalg.inv(a @ a.T + noise * torch.eye(len(a)))
    got = operator.back(y, DIMS, torch.tensor(noise, dtype=F64))
    torch.testing.assert_close(got.flatten(1), (inverse @ flat).T, rtol=1e-7, atol=1e-7)
    rows = torch.full((5, 1, 1, 1), noise, dtype=F64)
    torch.testing.assert_close(operator.back(y, DIMS, rows), got, rtol=1e-9, atol=1e-9)


def posterior(operator: Operator, y: Tensor, noise: float, precision: float, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, *DIMS) and covariance (d, d) of N(mean, 1 / precision) given y = A x + noise z."""
    a = matrix(operator)
    gain = torch.linalg.inv(precision * torch.eye(a.shape[1]) + a.T @ a / noise**2)
    whole = precision * mean.flatten(1) + y.flatten(1) @ a / noise**2
    return (whole @ gain).reshape(-1, *DIMS), gain


@registered_path
@each_operator
@each_method
def test_on_gaussian_data_it_is_the_exact_posterior_mean(
    path: NoisePath, operator: Operator, method: type[PiGDM]
) -> None:
    std, noise = 0.5, 0.2
    y = operator.measure(normal(1, *DIMS, seed=5))
    model = method(Gaussian(0.1, std, path), measured=Measurement(operator=operator, y=y, noise=noise, sigma_data=std))
    for t in (0.1, 0.5, 0.9, 1.0, torch.tensor([0.2, 0.4, 0.6, 1.0], dtype=F64)):
        x = path.mix(normal(4, *DIMS, seed=6), normal(4, *DIMS, seed=7), t)
        c, found = path.at(t), model(x, t)
        seen = (c.alpha**2 / c.sigma**2).expand(4)
        means = (
            std**-2 * torch.full(DIMS, 0.1, dtype=F64) + (c.alpha / c.sigma**2).expand(4).reshape(4, 1, 1, 1) * x
        ) / (std**-2 + seen).reshape(4, 1, 1, 1)
        for i in range(4):
            wanted, _ = posterior(operator, y, noise, float(std**-2 + seen[i]), means[i : i + 1])
            torch.testing.assert_close(found.x0[i : i + 1], wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(path.mix(found.x0, found.eps, t), x, rtol=1e-8, atol=1e-8)


def test_samples_have_the_posterior_s_mean_and_covariance() -> None:
    """An ODE's walk with the exact score, its errors of step and of 4000 samples."""
    path, operator, num, noise = PATH_CASES["cosine"], CASES["downsample"], 4000, 0.3
    y = operator.measure(normal(1, *DIMS, seed=5))
    model = PiGDM(Gaussian(0.0, 0.5, path), measured=Measurement(operator=operator, y=y, noise=noise, sigma_data=0.5))
    times = torch.linspace(1, 0, 41, dtype=F64)
    x = list(SAMPLERS["heun"](model, normal(num, *DIMS, seed=8), times))[-1].x
    mean, covariance = posterior(operator, y, noise, 4.0, torch.zeros(1, *DIMS, dtype=F64))
    spread = covariance.diagonal().reshape(DIMS)
    assert float(((x.mean(0) - mean[0]).abs() / (spread / num).sqrt()).max()) < 5
    found = torch.cov(x.flatten(1).T)
    assert float((found - covariance).abs().max()) < 6 * float(spread.max()) / num**0.5


def test_ddnm_of_a_mask_is_inpainting_and_keeps_what_was_measured() -> None:
    path, known, x0 = PATH_CASES["flow"], Mask(region="left"), normal(1, *DIMS, seed=1)
    mixture = GaussianMixture(normal(3, *DIMS, seed=2), [0.3, 0.3, 0.3], [1.0, 1.0, 1.0], path)
    model = DDNM(mixture, measured=Measurement(operator=known, y=known.measure(x0)))
    kept = Inpainting(mixture, known=x0, mask=known.mask(4, 4) == 0)
    x = normal(2, *DIMS, seed=3)
    torch.testing.assert_close(model(x, 0.5).x0, kept(x, 0.5).x0)
    for operator in CASES.values():
        y = operator.measure(x0)
        end = list(SAMPLERS["ddim"](DDNM(mixture, measured=Measurement(operator=operator, y=y)), x,
                                    torch.linspace(1, 0, 5, dtype=F64)))[-1].x  # fmt: skip
        torch.testing.assert_close(operator.measure(end), y.expand_as(operator.measure(end)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(regions(4, 4)))
def test_a_mask_says_what_is_generated_wherever_it_is_taken(name: str, tmp_path: Path) -> None:
    """The part of that name is white: an edit makes it anew, a restoration does not know it, a loss does not ask it."""
    part, facts = regions(8, 8)[name], DataFacts(dims=(1, 8, 8), is_image=True)
    white = tmp_path / "mask.png"
    Image.fromarray((255 * part.numpy()).astype("uint8")).save(white)
    target = tmp_path / "target.png"
    Image.new("L", (8, 8), 200).save(target)
    assert torch.equal(read_mask(white, None, facts.dims)[0, 0], part)
    assert torch.equal(Mask(region=name).mask(8, 8) == 0, part)  # type: ignore[arg-type]
    for mask in (name, str(white)):
        loss = open_loss("inpaint", facts, target=str(target), mask=mask, options={})
        x = torch.zeros(1, 1, 8, 8, requires_grad=True)
        slope = torch.autograd.grad(loss(x).sum(), x)[0][0, 0]
        assert torch.equal(slope == 0, part)


def test_a_slope_is_taken_of_the_model_and_no_graph_is_kept() -> None:
    """On a mixture the two methods differ; a frozen net's graph does not outlive the call."""
    path = PATH_CASES["flow"]
    mixture = GaussianMixture(normal(3, *DIMS, seed=2), [0.3, 0.3, 0.3], [1.0, 1.0, 1.0], path)
    measured = Measurement(operator=CASES["blur"], y=normal(1, *DIMS, seed=4), noise=0.1)
    x = normal(2, *DIMS, seed=3)
    with torch.no_grad():
        first, second = (method(mixture, measured=measured)(x, 0.5).x0 for method in (PiGDM, DDNM))
    assert not first.requires_grad and float((first - second).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Downsample(factor=1), "`factor` must be at least 2, got 1"),
        (lambda: Downsample(factor=3).dims(DIMS), "`factor` must divide the image's sides 4x4, got 3"),
        (lambda: OPERATORS["grey"].dims((1, 4, 4)), "'grey' wants images of several channels, got 1"),
        (lambda: Mask(region="middle"), "`region` must be left, right, top, bottom or centre, got 'middle'"),
        (lambda: Mask(known=torch.ones(2, 2)).dims(DIMS), "`known` must be of the image's size 4x4, got 2x2"),
        (lambda: Blur(sigma=0.0), r"`sigma` must be in \[0.01, 1000000.0\], got 0.0"),
        (
            lambda: Measurement(operator=Blur(), y=torch.zeros(1), noise=-1.0),
            r"`noise` must be in \[0, 1000000.0\], got -1.0",
        ),
        (lambda: Measurement(operator=Blur(), y=torch.zeros(1), sigma_data=0.0), r"`sigma_data` must be in \[1e-06"),
    ],
)
def test_bad_numbers_are_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("`", "`")):
        make()  # type: ignore[operator]


# -- from the command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs") / "digits"
    tiny = ["--set", "net.channels=[8]", "--set", "train.held_out_every=0", "--set", "train.sample_every=0"]
    short = ["--max-steps", "40", "--batch-size", "32", "--device", "cpu"]
    assert run_app(["train", *tiny, *short, "--save-dir", str(folder)]) == 0
    return str(folder)


def restore(run: str, output: Path, *rest: str) -> int:
    return run_app(["restore", "--ckpt", run, "--output", str(output), "--steps", "4", "--num", "2", *rest])


def test_a_picture_is_restored_between_what_was_given_and_the_truth(
    digits_run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, given, output = tmp_path / "truth.png", tmp_path / "given.png", tmp_path / "out.png"
    Image.fromarray(load_dataset("digits").held_out.x[0, 0].numpy()).save(truth)
    assert (
        restore(digits_run, output, "--truth", str(truth), "--operator", "downsample", "--operator-set", "factor=2")
        == 0
    )
    assert "dB from the truth, their mean" in capsys.readouterr().out and output.is_file()
    with Image.open(truth) as image:
        image.resize((4, 4), Image.Resampling.BOX).save(given)
    assert restore(digits_run, output, "--input", str(given), "--operator", "downsample", "--operator-set", "factor=2",
                   "--method", "ddnm", "--noise", "0.01", "--labels", "3") == 0  # fmt: skip
    for rest, words in (
        (["--input", str(truth), "--operator", "downsample"], "the operator makes 2x2 of this model's images"),
        (["--operator", "blur"], "give the degraded image as --input, or a whole one as --truth"),
        (["--truth", str(truth)], "say how the image was degraded, by an --operator"),
        (["--truth", str(truth), "--operator", "grey"], "operator 'grey' wants images of several channels"),
        (["--truth", str(truth), "--operator", "smudge"], "unknown operator 'smudge'"),
        (["--truth", str(truth), "--operator", "blur", "--method", "magic"], "unknown restoration method 'magic'"),
        (["--truth", str(truth), "--operator", "blur", "--mask", str(truth)], "--mask belongs to operator 'mask'"),
        (["--truth", str(truth), "--operator", "mask", "--known", str(truth)], "--known is now --mask"),
        (["--truth", str(truth), "--operator", "blur", "--operator-set", "radius=2"], "has no option 'radius'"),
    ):
        capsys.readouterr()
        assert restore(digits_run, output, *rest) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said


def test_python_takes_any_linear_function(digits_run: str) -> None:
    model = ef.open(digits_run)
    x = model.sample(labels=(3,), num=1, steps=4).x.clamp(-1, 1)
    made = model.restore(x[:, :, ::2], operator=lambda x: x[:, :, ::2], steps=4, num=2, method="ddnm")
    torch.testing.assert_close(made.x[:, :, ::2], x[:, :, ::2].expand(2, -1, -1, -1), rtol=0, atol=1e-3)
    with pytest.raises(ConfigError, match="a measurement of 1x4x8 is wanted"):
        model.restore(x, operator=lambda x: x[:, :, ::2])
