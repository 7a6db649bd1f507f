"""`ebbflow evaluate`: the features it trains, what it caches, the table it writes, stopping and bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import on_device
from torch import Tensor

from ebbflow.cli.app import run_app
from ebbflow.core.paths import PATHS
from ebbflow.data import Dataset, Splits, load_dataset
from ebbflow.errors import ConfigError, DataError
from ebbflow.methods.oracles import Gaussian
from ebbflow.metrics import cache
from ebbflow.metrics.classifier import accuracy
from ebbflow.metrics.denoising import denoising_errors
from ebbflow.metrics.features import ClassifierFeatures, classifier, coordinates, feature_map, features_of, new_net, pca
from ebbflow.metrics.learning import LearnerSettings
from ebbflow.metrics.scores import METRICS
from ebbflow.progress import finish
from ebbflow.requests.studies import EvaluateRequest
from ebbflow.runs import Model
from ebbflow.runs import parts as parts_module
from ebbflow.runs import sample as sample_module
from ebbflow.runs.parts import weights_hash
from ebbflow.studies.evaluate import dealt, evaluate, labels_of

CPU = torch.device("cpu")
QUICK = LearnerSettings(min_steps=30, max_steps=30, num_features=16)
KEYS = {
    *METRICS,
    *("frechet_floor", "features", "num", "split", "seeds", "sampler", "steps", "guidance", "weights", "versions"),
    *("command", "seconds", "standard_errors", "nearest_ratio", "denoising", "classifier", "reference_sha256"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for the whole module, and a classifier that trains in a second."""
    folder = tmp_path_factory.getbasetemp() / "evaluate_cache"
    monkeypatch.setenv("EBBFLOW_CACHE", str(folder))
    monkeypatch.setattr(LearnerSettings.__init__, "__kwdefaults__", QUICK_DEFAULTS)


QUICK_DEFAULTS = {**LearnerSettings.__init__.__kwdefaults__, "min_steps": 60, "max_steps": 60, "num_features": 24}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    settings = ["net.channels=[8,16]", "net.clock_dim=16", "train.sample_every=0", "train.batch_size=16"]
    flags = [part for setting in settings for part in ("--set", setting)]
    assert run_app(["train", "--preset", "digits", "--max-steps", "2", "--save-dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def points_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "points"
    settings = ["data.name=moons", "net.kind=mlp", "conditioning.kind=none", "train.sample_every=0"]
    flags = [part for setting in settings for part in ("--set", setting)]
    assert run_app(["train", "--max-steps", "2", "--save-dir", str(folder), *flags]) == 0
    return folder


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "eval").glob("*.json"))


# -- features -------------------------------------------------------------------------------------------------------


def test_the_classifier_learns_digits_and_scales_its_features(digits: Splits) -> None:
    settings = replace(QUICK, min_steps=120, max_steps=120, batch_size=64, num_features=32)
    found: ClassifierFeatures = finish(classifier(digits, CPU, settings))
    right = accuracy(found.net, digits.held_out, CPU)
    assert right is not None and right > 0.9
    assert found.facts["held_out_accuracy"] == right
    assert found.facts["held_out_error"] == pytest.approx(1 - right)
    x = digits.train.x0(torch.arange(len(digits.train)))
    assert float(found(x).var(0).mean()) == pytest.approx(1, rel=1e-4)
    assert found.name == f"classifier-digits-{found.facts['sha256'][:8]}"


def test_the_same_data_and_settings_give_the_same_weights(
    digits: Splits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = []
    for place in ("one", "two"):
        monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path / place))
        torch.manual_seed(len(names))
        names.append(finish(classifier(digits, CPU, QUICK)).name)
    other = finish(classifier(digits, CPU, replace(QUICK, seed=1))).name
    assert names[0] == names[1] != other


def test_training_never_touches_the_held_out_split_but_for_its_error(digits: Splits, tmp_path: Path) -> None:
    shuffled = replace_x(digits.held_out, digits.held_out.x.flip(0))
    one = finish(classifier(digits, CPU, QUICK))
    two = finish(classifier(Splits(train=digits.train, held_out=shuffled), CPU, QUICK))
    assert one.facts["sha256"] == two.facts["sha256"]
    assert one.facts["held_out_accuracy"] > two.facts["held_out_accuracy"]


def replace_x(data: Dataset, x: Tensor) -> Dataset:
    return Dataset(name=data.name, x=x, labels=data.labels, label_names=data.label_names)


def test_a_cached_classifier_is_used_until_it_is_damaged(digits: Splits) -> None:
    settings = replace(QUICK, seed=7)
    first = finish(classifier(digits, CPU, settings))
    assert list(classifier(digits, CPU, settings)) == []
    file = Path(first.facts["file"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert len(list(classifier(digits, CPU, settings))) == 30
    assert cache.file_hash(file) == first.facts["sha256"]


def test_other_data_is_another_cache_entry(digits: Splits) -> None:
    changed = digits.train.x.clone()
    changed[0, 0, 0, 0] += 1
    assert cache.data_hash(digits.train) != cache.data_hash(replace_x(digits.train, changed))
    one = finish(classifier(digits, CPU, QUICK))
    two = finish(classifier(Splits(train=replace_x(digits.train, changed), held_out=digits.held_out), CPU, QUICK))
    assert one.facts["file"] != two.facts["file"]


@pytest.mark.parametrize("dims", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (4, 7, 9), (3, 64, 64), (2,)])
def test_the_classifier_takes_any_shape(dims: tuple[int, ...]) -> None:
    x = torch.zeros(3, *dims) if len(dims) == 1 else torch.zeros(3, *dims, dtype=torch.uint8)
    data = Dataset(name="any", x=x, labels=torch.tensor([0, 1, 1]), label_names=("a", "b"))
    net = new_net(data, LearnerSettings())
    features = net(data.x0(torch.arange(3)))
    assert features.shape == (3, LearnerSettings().num_features) and net.head(features).shape == (3, 2)


def test_unlabelled_data_has_no_classifier(digits: Splits) -> None:
    bare = Dataset(name="bare", x=digits.train.x, labels=None, label_names=())
    with pytest.raises(ConfigError, match="no labels to train a classifier on"):
        finish(classifier(Splits(train=bare, held_out=bare), CPU))


def test_principal_components_keep_the_variance_and_lose_the_mean(digits: Splits) -> None:
    found = pca(digits.train, 20)
    features = found(digits.train.x0(torch.arange(len(digits.train))))
    covariance = torch.cov(features.double().T)
    assert found.dim == 20 and features.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(covariance, torch.diag(covariance.diagonal()), rtol=0, atol=1e-4)
    assert float(covariance.trace()) == pytest.approx(20, rel=1e-4)
    assert pca(digits.train, 20).name == found.name != pca(digits.held_out, 20).name


def test_constant_data_has_no_principal_components() -> None:
    flat = Dataset(name="flat", x=torch.zeros(9, 1, 2, 2, dtype=torch.uint8), labels=None, label_names=())
    with pytest.raises(ConfigError, match="does not vary"):
        pca(flat)


def test_features_of_a_data_set_are_cached_by_its_content(digits: Splits) -> None:
    found = pca(digits.train, 8)
    first = finish(features_of(found, digits.held_out))
    assert list(features_of(found, digits.held_out)) == []
    torch.testing.assert_close(first, found(digits.held_out.x0(torch.arange(len(digits.held_out)))))
    assert list(features_of(found, replace_x(digits.held_out, 255 - digits.held_out.x))) != []
    assert list(features_of(coordinates(digits.train), digits.held_out)) != []


def save_tiny(kind: str, folder: Path) -> Any:
    """A randomly initialised model of a few thousand weights, as its library saves it."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            config = transformers.CLIPVisionConfig(**small, intermediate_size=32, projection_dim=12)
            model = transformers.CLIPVisionModelWithProjection(config)
        else:
            model = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("kind", "dim"), [("dinov2", 16), ("clip", 12)])
def test_pretrained_features_are_the_models_own(kind: str, dim: int, digits: Splits, tmp_path: Path) -> None:
    model = save_tiny(kind, tmp_path)
    found = feature_map(f"{kind}:{tmp_path}", digits.train, CPU)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    restated = feature_map(f"{kind}:{tmp_path}", digits.train, CPU)
    x = torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in statistics.values())
    out = model(pixel_values=(x - mean) / std)
    expected = out.image_embeds if kind == "clip" else out.last_hidden_state[:, 0]
    torch.testing.assert_close(restated(2 * x - 1), expected.detach(), rtol=1e-4, atol=1e-5)
    assert found.dim == dim and found.name == restated.name and found.name.startswith(f"{kind}-")
    assert found(digits.train.x0(torch.arange(5))).shape == (5, dim)


def test_evaluate_with_pretrained_features(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny("dinov2", tmp_path)
    assert run_app(arguments(run_folder, "--json", "--features", f"dinov2:{tmp_path}")) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"].startswith("dinov2-") and found["label_accuracy"] is not None


# -- denoising by log-SNR -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flow", "cosine", "vp", "ve"])
def test_denoising_errors_of_an_exact_denoiser_are_the_closed_form_on_every_path(name: str) -> None:
    """For data N(0, s^2) the error is the posterior variance s^2 sigma^2 / (alpha^2 s^2 + sigma^2) = s^2 / (1 + s^2
    e^L)."""
    std, x0 = 0.5, 0.5 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    rows = finish(denoising_errors(Gaussian(0.0, std, PATHS[name]()), x0, None, log_snrs=(-4.0, 0.0, 4.0)))
    assert [row["log_snr"] for row in rows] == [-4, 0, 4]
    for row in rows:
        snr = torch.tensor(row["log_snr"]).exp().item()
        assert row["x0_mse"] == pytest.approx(std**2 / (1 + std**2 * snr), rel=0.05)
        assert row["eps_mse"] == pytest.approx(snr * row["x0_mse"], rel=1e-3)


def test_levels_outside_the_path_are_left_out() -> None:
    rows = finish(denoising_errors(Gaussian(0.0, 1.0, PATHS["vp"]()), torch.zeros(4, 2), None, log_snrs=(-40.0, 0.0)))
    assert [row["log_snr"] for row in rows] == [0]


def test_denoising_is_measured_where_there_is_no_float64() -> None:
    x0 = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    assert finish(denoising_errors(on_device(), x0, None, log_snrs=(0.0,)))[0]["x0_mse"] > 0


# -- the command ----------------------------------------------------------------------------------------------------


def arguments(folder: Path, *more: str) -> list[str]:
    return ["evaluate", "--ckpt", str(folder), "--num", "40", "--steps", "2", "--sampler", "ddim", *more]


def test_evaluate_writes_the_table_it_prints(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(arguments(run_folder, "--json", "--features", "classifier")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() >= KEYS
    file = Path(printed["file"])
    assert json.loads(file.read_text()) == printed
    assert file.parent == run_folder / "eval" and not list(file.parent.glob(".partial*"))
    assert printed["num"] == 40 and printed["seeds"] == [0, 39] and printed["sampler"] == "ddim"
    assert printed["features"].startswith("classifier-digits-") and printed["classifier"]["held_out_size"] == 297
    assert 0 <= printed["label_accuracy"] <= 1 and len(printed["label_accuracy_by_class"]) == 10
    assert printed["frechet"] > printed["frechet_floor"] > 0
    seen = "the floor's pictures may be those that the classifier learned; what it knows of others is said instead"
    assert printed["floor"]["label_accuracy"] == printed["classifier"]["held_out_accuracy"], seen


def test_the_same_settings_give_the_same_table_at_any_batch_size(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for size in ("40", "7"):
        assert run_app(arguments(run_folder, "--json", "--seed", "5", "--batch-size", size)) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["file"] == found[1]["file"]
    for name in METRICS:
        first, second = (one[name] for one in found)
        assert first is second is None or first == pytest.approx(second, rel=1e-3, abs=1e-4)


def test_other_settings_go_to_another_file(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = set()
    for more in (["--seed", "9"], ["--seed", "9", "--set", "eta=0.5"], ["--seed", "9", "--weights", "raw"]):
        assert run_app(arguments(run_folder, "--json", *more)) == 0
        files.add(json.loads(capsys.readouterr().out)["file"])
    assert len(files) == 3


def test_a_stopped_evaluation_goes_on_where_it_was(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Model.from_run(run_folder), []
    request = EvaluateRequest(num=40, seed=100, sampler="euler", steps=2, batch_size=10)
    genuine = sample_module.generate

    def watched(*args: Any, **more: Any) -> Iterator[Any]:
        for samples in genuine(*args, **more):
            seen.append(samples.plan.seeds[0])
            yield samples

    monkeypatch.setattr(sample_module, "generate", watched)
    whole = finish(evaluate(model, request))
    assert seen == [100, 100, 110, 110, 120, 120, 130, 130]
    seen.clear()
    stages = evaluate(model, request)
    for stage in stages:
        if stage.name == "sample" and stage.done >= 30:
            break
    stages.close()
    (partial,) = (run_folder / "eval").glob(".partial*")
    last = sorted(partial.glob("batch-*"))[-1]
    last.write_bytes(last.read_bytes()[:20])
    seen.clear()
    resumed = finish(evaluate(model, request))
    assert seen == [110, 110, 120, 120, 130, 130]
    assert {name: resumed[name] for name in METRICS} == {name: whole[name] for name in METRICS}


def test_control_c_says_that_the_same_command_goes_on(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genuine = sample_module.generate

    def interrupted(*args: Any, **more: Any) -> Iterator[Any]:
        for samples in genuine(*args, **more):
            if samples.plan.seeds[0] > 200:
                raise KeyboardInterrupt
            yield samples

    monkeypatch.setattr(sample_module, "generate", interrupted)
    assert run_app(arguments(run_folder, "--seed", "200", "--batch-size", "10")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert [file.name for file in (run_folder / "eval").glob(".partial*/batch*")] == ["batch-00000000.safetensors"]


def test_samples_that_are_not_finite_are_refused(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = sample_module.walk

    def broken(*args: Any, **more: Any) -> Iterator[Any]:
        for step in genuine(*args, **more):
            yield replace(step, x=step.x * float("nan"))

    monkeypatch.setattr(sample_module, "walk", broken)
    model, request = Model.from_run(run_folder), EvaluateRequest(num=40, seed=300, steps=1)
    with pytest.raises(FloatingPointError, match="seeds 300 to 339 are not finite"):
        finish(evaluate(model, request))


def test_data_of_another_shape_is_refused(run_folder: Path) -> None:
    model = Model.from_run(run_folder)
    config = replace(model.run.config, data=replace(model.run.config.data, size=4))
    other = replace(model, run=replace(model.run, config=config))
    with pytest.raises(DataError, match="the run was trained on"):
        finish(evaluate(other, EvaluateRequest(num=40)))


def test_repeats_use_the_next_seeds(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(arguments(run_folder, "--json", "--repeats", "2")) == 0
    twice = json.loads(capsys.readouterr().out)
    assert run_app(arguments(run_folder, "--json", "--seed", "40")) == 0
    second = json.loads(capsys.readouterr().out)
    assert twice["seeds"] == [0, 79] and len(twice["repeats"]) == 2
    assert twice["repeats"][1]["frechet"] == pytest.approx(second["frechet"], rel=1e-4)


def test_an_unconditional_run_on_points_has_no_label_accuracy(
    points_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["evaluate", "--ckpt", str(points_folder), "--num", "50", "--steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["features"] == "coordinates2" and found["label_accuracy"] is None
    assert found["frechet"] > 0 and found["guidance"] == 1


def test_the_printed_table_names_the_features_and_the_file(
    points_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["evaluate", "--ckpt", str(points_folder), "--num", "50", "--steps", "2", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert "frechet" in out and "coordinates2" in out and "label_accuracy" not in out
    assert all(str(file) in out for file in tables(points_folder) if "-s3-" in file.name)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num", "20", "--features", "classifier"], "too few for the covariance of 24 features"),
        (["--weights", "best"], "--weights must be ema or raw"),
        (["--features", "inception"], "are written inception:FILE"),
        (["--features", "inception:/nowhere.safetensors"], "Make it of the weights of pytorch-fid"),
        (["--features", "resnet"], "unknown features 'resnet'"),
        (["--features", "pac"], "Did you mean 'pca'"),
        (["--features", "clip"], "are written clip:FOLDER"),
        (["--features", "dinov2:/nowhere/at/all"], "no dinov2 model could be read"),
        (["--reference", "test"], "--reference must be"),
        (["--sampler", "eular"], "unknown sampler 'eular'"),
        (["--set", "eta"], "--set wants name=value"),
        (["--set", "gamma=1"], "has no option 'gamma'"),
        (["--device", "cuda:99"], "is not available here"),
    ],
)
def test_bad_input_is_one_sentence(
    run_folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert run_app(arguments(run_folder, *more)) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_a_missing_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["evaluate", "--ckpt", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_guidance_of_an_unconditional_run_is_refused(points_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["evaluate", "--ckpt", str(points_folder), "--num", "50", "--guidance", "2"]) == 2
    assert "unconditional" in capsys.readouterr().err


def test_a_run_of_text_is_measured_with_texts_of_its_data(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    tiny = ["--set", "net.channels=[8,16]", "--set", "net.num_heads=2", "--set", "train.sample_every=0"]
    few = ["--max-steps", "1", "--batch-size", "4", "--set", "sample.num_steps=1", "--device", "cpu"]
    assert run_app(["train", "--preset", "digits_text", "--save-dir", str(folder), *tiny, *few]) == 0
    model = Model.from_run(folder)
    assert finish(evaluate(model, EvaluateRequest(num=140, steps=1)))["num"] == 140
    assert dealt(model, load_dataset("digits"), 12) == [*range(10), 0, 1], "the names of classes are worded"
    own = replace(load_dataset("digits").held_out, captions=("a", "b", *["c"] * 295))
    assert dealt(model, Splits(train=own, held_out=own), 3) == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="takes a prompt for each sample, and the data 'moons' has none"):
        dealt(replace(model, run=None), load_dataset("moons"), 3)


# -- a training that goes on ----------------------------------------------------------------------------------------


def test_a_checkpoint_may_be_pruned_while_it_is_evaluated(run_folder: Path, tmp_path: Path) -> None:
    """What is measured and hashed is what was read at the start."""
    folder = tmp_path / "trained_further"
    shutil.copytree(run_folder, folder, ignore=shutil.ignore_patterns("eval"))
    model = Model.from_run(folder)
    work = evaluate(model, EvaluateRequest(num=40, seed=500, steps=1))
    next(work)
    shutil.rmtree(model.run.checkpoint.folder)
    assert finish(work)["weights_sha256"] == weights_hash(Model.from_run(run_folder))
    assert not model.run.checkpoint.folder.exists()


def test_a_stopped_evaluation_does_not_go_on_with_other_code(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = Model.from_run(run_folder), EvaluateRequest(num=40, seed=600, steps=1, batch_size=10)
    for code in ("one", "two"):
        monkeypatch.setattr(parts_module, "code_hash", lambda code=code: code)
        stages = evaluate(model, request)
        made = [stage.done for stage in stages if stage.name == "sample" and (code == "two" or stage.done < 20)]
        assert made[0] == 10


def test_the_code_is_all_that_makes_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "ebbflow"
    shutil.copytree(Path(cache.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(copy / "metrics" / "cache.py"))
    first = cache.code_hash.__wrapped__()
    (copy / "cli" / "app.py").write_text("")
    (copy / "show" / "page.py").write_text("")
    assert cache.code_hash.__wrapped__() == first
    (copy / "methods" / "samplers" / "ode.py").write_text("")
    assert cache.code_hash.__wrapped__() != first


def test_the_source_of_a_strangers_sampler_is_known_and_that_of_none_is_empty() -> None:
    assert "def test_the_source_of" in cache.source_of(finish_nothing) and cache.source_of(len) == ""


def finish_nothing() -> None:
    return


def test_pictures_are_asked_for_their_labels_where_these_are_the_datas_classes() -> None:
    def pictures(labels: list[int] | None, names: tuple[str, ...]) -> Dataset:
        return Dataset(
            name="pictures",
            x=torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
            labels=None if labels is None else torch.tensor(labels),
            label_names=names,
        )

    data = pictures([0, 1], ("a", "b"))
    assert labels_of([pictures([1, 0], ("a", "b")), pictures([1, 1], ("a", "b"))], data) == (1, 0, 1, 1)
    assert labels_of([pictures([1, 0], ("a", "b")), pictures(None, ())], data) is None
    assert labels_of([pictures([1, 0], ("b", "a"))], data) is None
