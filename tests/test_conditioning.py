"""Conditions of every kind: what the null is, how they are dropped, that they reach the net and only their own sample,
and that a user can ask for them."""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.conditioning import CONDITIONINGS, ConditionedNet, Conditioner, DataFacts
from ebbflow.conditioning.pretrained import PretrainedEncoder, PretrainedTextConditioning
from ebbflow.conditioning.text import DIGITS, TextConditioner, TextConditioning, captions_of, worded
from ebbflow.conditioning.vectors import VectorConditioning
from ebbflow.core.noise import generator_for
from ebbflow.data import Dataset, load_dataset
from ebbflow.errors import CheckpointError, ConfigError
from ebbflow.nets import NETS
from ebbflow.progress import finish
from ebbflow.runs import Model, Plan, generate, open_run
from ebbflow.runs.build import facts_of
from ebbflow.runs.folder import read_facts, take_folder
from ebbflow.runs.results import row_name
from ebbflow.runs.text_files import shelve

INJECTIONS = ("add", "scale", "cross_attention")
NAMES = tuple("0123456789")
FACTS = DataFacts(dims=(1, 8, 8), is_image=True, label_names=NAMES)
POINTS = DataFacts(dims=(2,), is_image=False, label_names=NAMES)
KINDS = ("label", "vector", "text")
SMALL = {
    "unet": {"channels": (8, 8)},
    "dit": {"dim": 24, "depth": 2, "num_heads": 2},
    "mlp": {"dim": 16, "depth": 2},
}
WORDS = ("<pad>", "</s>", "<unk>", "<s>", "a", "picture", "of", "handwritten", *DIGITS)


def conditioner(kind: str, injection: str = "cross_attention", **options: object) -> Conditioner:
    torch.manual_seed(0)
    return CONDITIONINGS[kind](injection=injection, dim=16, **options).build(FACTS).eval()


def shaken(module: nn.Module, seed: int = 1) -> nn.Module:
    """All parameters moved, because fresh nets start at zero and hear nothing."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return module


def model(net: str, kind: str, injection: str) -> ConditionedNet:
    facts = POINTS if net == "mlp" else FACTS
    made = conditioner(kind, injection)
    inner = NETS[net](**SMALL[net]).build(facts.dims, facts.dims[0], made.spec)
    return shaken(ConditionedNet(inner, made)).eval()


def batch(net: str, num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    dims = POINTS.dims if net == "mlp" else FACTS.dims
    return torch.randn(num, *dims, generator=g), 100 * torch.randn(num, generator=g)


each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize(("net", "kind", "injection"), list(itertools.product(SMALL, KINDS, INJECTIONS)))


# -- the null -------------------------------------------------------------------------------------------------------


def told(c: Conditioner, cond: Tensor) -> Tensor:
    """What a net can see of a condition: the vector, or the tokens under the mask."""
    context = c(cond)
    if context.vector is not None:
        return context.vector
    assert context.tokens is not None
    return context.tokens if context.mask is None else context.tokens * context.mask[..., None]


@each_kind
@pytest.mark.parametrize("injection", INJECTIONS)
def test_the_null_is_learned_and_independent_of_what_is_known_of_conditions(kind: str, injection: str) -> None:
    c = conditioner(kind, injection)
    null = told(c, c.null(3))
    null.square().sum().backward()
    touched = {name: p for name, p in c.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert set(touched) == {"table.weight" if kind == "label" else "nothing"}
    if kind == "label":
        rows = touched["table.weight"].grad.abs().sum(dim=1)
        assert rows[:-1].sum() == 0 and rows[-1] > 0
    else:
        others = nn.ModuleList(c.children())
        shaken(others)
        torch.testing.assert_close(told(c, c.null(3)), null, rtol=0, atol=0)


def test_empty_and_blank_texts_are_the_null() -> None:
    c = conditioner("text")
    assert torch.equal(c.read(["", "  \n"]), c.null(2))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_vector_is_the_null(value: float) -> None:
    c = conditioner("vector")
    vector = c.read([(value,) * 10])
    assert not torch.equal(vector, c.null(1))
    assert float((told(c, vector) - told(c, c.null(1))).detach().abs().max()) > 0.01


# -- dropping -------------------------------------------------------------------------------------------------------


@each_kind
def test_each_row_is_dropped_on_its_own_with_the_probability(kind: str) -> None:
    c, num, p = conditioner(kind), 20_000, 0.3
    cond = c.read([4]).expand(num, *c.null(1).shape[1:])
    gone = (c.drop(cond, p, generator_for(0, "drop")) == c.null(num)).reshape(num, -1).all(dim=1).double()
    slack = 4.5 * math.sqrt(p * (1 - p) / num)
    assert abs(float(gone.mean()) - p) < slack
    for lag in (1, 2, 128):
        assert abs(float((gone[lag:] * gone[:-lag]).mean()) - p * p) < 4.5 * math.sqrt(p * p / num)
    again = c.drop(cond, p, generator_for(0, "drop"))
    assert torch.equal(again, c.drop(cond, p, generator_for(0, "drop")))
    assert torch.equal(c.drop(cond, 0.0, generator_for(1, "drop")), cond)


@each_kind
def test_what_is_dropped_has_no_say_in_the_output(kind: str) -> None:
    net = model("unet", kind, "cross_attention")
    c = net.conditioner
    assert c is not None
    x, clock = batch("unet", 8)
    first, second = c.read([0, 1, 2, 3, 4, 5, 6, 7]), c.read([9, 9, 9, 9, 9, 9, 9, 9])
    dropped = [c.drop(cond, 0.5, generator_for(3, "drop")) for cond in (first, second)]
    gone = (dropped[0] == c.null(8)).reshape(8, -1).all(dim=1)
    assert 0 < int(gone.sum()) < 8
    assert torch.equal(dropped[0][gone], dropped[1][gone])
    a, b = (net(x, clock, cond) for cond in dropped)
    torch.testing.assert_close(a[gone], b[gone], rtol=1e-5, atol=1e-5)
    assert bool(((a - b)[~gone].abs().flatten(1).max(dim=1).values > 1e-4).all())


# -- into the net ---------------------------------------------------------------------------------------------------


@each_case
def test_condition_and_clock_matter_and_all_weights_learn(net: str, kind: str, injection: str) -> None:
    m = model(net, kind, injection)
    c = m.conditioner
    assert c is not None
    x, clock = batch(net, 2)
    x, clock = x[:1].expand(2, *x.shape[1:]), clock[:1].expand(2)
    with torch.no_grad():
        out, null, later = m(x, clock, c.read([3, 5])), m(x, clock, c.null(2)), m(x, clock + 20, c.read([3, 5]))
    assert float((out[0] - out[1]).abs().max()) > 1e-3
    assert float((out[0] - null[0]).abs().max()) > 1e-3
    assert float((out - later).abs().max()) > 1e-3
    m(x, clock, torch.cat([c.read([3]), c.null(1)])).square().sum().backward()
    silent = [name for name, p in m.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in m.parameters())


@each_case
def test_no_sample_sees_another_ones_condition(net: str, kind: str, injection: str) -> None:
    m = model(net, kind, injection)
    c = m.conditioner
    assert c is not None
    x, clock = batch(net, 5)
    cond = torch.cat([c.read([7, 0, 3, 7]), c.null(1)])
    other = torch.cat([c.read([7]), c.null(1), c.read([8, 7, 2])])
    with torch.no_grad():
        together, changed = m(x, clock, cond), m(x, clock, other)
        alone = torch.cat([m(x[i : i + 1], clock[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[[0, 3]], changed[[0, 3]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_padding_changes_nothing(injection: str) -> None:
    m = model("dit", "text", injection)
    c = m.conditioner
    assert isinstance(c, TextConditioner)
    x, clock = batch("dit", 4)
    cond = c.read(["four", "a picture of a four", "", "Ünïcödé 漢字"])
    longer = torch.cat([cond, torch.full((4, 40), -1, dtype=cond.dtype)], dim=1)
    with torch.no_grad():
        wanted = m(x, clock, cond)
        torch.testing.assert_close(m(x, clock, longer), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(m(x[:1], clock[:1], cond[:1, :4]), wanted[:1], rtol=1e-4, atol=1e-5)


def test_the_mask_covers_the_padding_alone() -> None:
    c = conditioner("text")
    context = c(c.read(["four", "", "a four"]))
    assert context.mask is not None
    assert context.mask.sum(dim=1).tolist() == [4, 1, 6]


def test_texts_longer_than_the_limit_are_cut_there() -> None:
    c = conditioner("text", max_length=6)
    assert torch.equal(c.read(["abcdefghij"]), c.read(["abcdef"]))
    assert c.read(["abcdefghij"]).shape == (1, 6)


def test_the_order_of_letters_matters() -> None:
    c = shaken(conditioner("text", "add"))
    with torch.no_grad():
        a, b = told(c, c.read(["no four, a two", "no two, a four"]))
    assert float((a - b).abs().max()) > 1e-3


# -- what stands for what -------------------------------------------------------------------------------------------


def test_a_label_is_its_one_hot_vector_and_vectors_may_be_mixed() -> None:
    c = conditioner("vector")
    hot = tuple(float(i == 3) for i in range(10))
    assert torch.equal(c.read([3]), c.read([hot]))
    labels = torch.tensor([3, 0, 9])
    data = Dataset(name="d", x=torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels=labels, label_names=NAMES)
    assert torch.equal(c.conditions(data), c.read([3, 0, 9]))
    half = tuple(0.5 * (i in (3, 5)) for i in range(10))
    assert torch.equal(c.read([half]), (c.read([3]) + c.read([5])) / 2)


def test_a_label_is_the_first_template_to_a_text_model() -> None:
    c = conditioner("text", templates=("a handwritten {}", "{}"))
    assert torch.equal(c.read([4]), c.read(["a handwritten four"]))
    assert TextConditioning(templates=("a {}",)).examples(FACTS)[:2] == ("a zero", "a one")
    assert worded("a picture of a {}", "cat") == "a picture of a cat" and worded("{}", "12") == "12"


def test_captions_are_made_of_labels_once_and_use_every_template() -> None:
    data, templates = load_dataset("digits").train, ("a {}", "the digit {}")
    assert data.labels is not None
    captions = captions_of(data, templates)
    assert captions is not None and captions == captions_of(data, templates)
    assert all(
        caption in [worded(t, NAMES[k]) for t in templates]
        for caption, k in zip(captions, data.labels.tolist(), strict=True)
    )
    share = sum(caption.startswith("the digit") for caption in captions) / len(captions)
    assert abs(share - 0.5) < 4.5 * 0.5 / math.sqrt(len(captions))


def test_captions_of_the_data_win_over_templates() -> None:
    x = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    data = Dataset(name="d", x=x, labels=torch.tensor([0, 1]), label_names=("a", "b"), captions=("red", "blue"))
    c = TextConditioning(dim=16).build(facts_of(data))
    assert torch.equal(c.conditions(data), c.read(["red", "blue"]))
    with pytest.raises(ValueError, match="trained on captions: it takes no labels"):
        c.read([0])


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("label", "a four", "trained on class labels: it takes no prompts"),
        ("label", (0.5,) * 10, "trained on class labels: it takes no vectors"),
        ("label", 10, r"must be in \[0, 10\), got 10"),
        ("vector", "a four", "trained on vectors: it takes no prompts"),
        ("vector", (0.5, 0.5), "have 10 numbers, got 2"),
        ("vector", (math.nan,) * 10, "must be finite"),
        ("vector", -1, r"must be in \[0, 10\), got -1"),
        ("text", (0.5,) * 10, "trained on texts: it takes no vectors"),
        ("text", 10, r"must be in \[0, 10\), got 10"),
    ],
)
def test_what_a_kind_does_not_take_is_refused(kind: str, wanted: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conditioner(kind).read([wanted])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("text", {"templates": ()}, "`templates` must be"),
        ("text", {"templates": ("a four",)}, "`templates` must be"),
        ("text", {"dim": 30, "num_heads": 4}, "multiple of `num_heads`"),
        ("text", {"depth": 0}, r"`depth` must be in \[1, 1024\]"),
        ("text", {"max_length": 0}, "`max_length` must be"),
        ("vector", {"num_tokens": 0}, "`num_tokens` must be"),
        ("label", {"drop": 1.0}, "`drop` must be"),
        ("label", {"dim": 0}, "`dim` must be"),
    ],
)
def test_settings_out_of_range_are_refused(kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONDITIONINGS[kind](**options)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("label", "needs labelled data"), ("vector", "needs labelled data"), ("text", "needs captions")],
)
def test_data_without_conditions_are_refused(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONDITIONINGS[kind]().build(DataFacts(dims=(2,), is_image=False))
    with pytest.raises(ValueError, match="an array `vectors`"):
        VectorConditioning(source="data").build(FACTS)


def test_facts_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    old = {"dims": [1, 8, 8], "is_image": True, "label_names": list(NAMES)}
    assert read_facts(old) == FACTS
    config = ef_config("label")
    with take_folder(tmp_path / "run", config, FACTS):
        pass
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "facts": old}))
    with take_folder(tmp_path / "run", config, FACTS):
        pass
    with pytest.raises(ConfigError, match="on other data"), take_folder(tmp_path / "run", config, POINTS):
        pass


def ef_config(kind: str):  # type: ignore[no-untyped-def]
    from ebbflow.config import parse

    return parse({"conditioning": {"kind": kind}})


# -- from the command line ------------------------------------------------------------------------------------------


def train(folder: Path, kind: str, *more: str, data: str = "digits") -> Path:
    settings = ["net.channels=[8,8]", f"conditioning.kind={kind}", "conditioning.dim=16", "train.batch_size=8"]
    settings += ["sample.num_steps=1", "sample.sampler=euler", "train.held_out_size=8", *more]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert run_app(["train", "--data", data, "--max-steps", "2", "--save-dir", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A barely trained run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    made = {kind: train(root / kind, kind) for kind in KINDS}
    settings = ["--set", "conditioning.kind=none", "--set", "net.channels=[8,8]", "--set", "sample.num_steps=1"]
    assert run_app(["train", "--max-steps", "1", "--save-dir", str(root / "none"), *settings]) == 0
    return {**made, "none": root / "none"}


def sample(run: Path, output: Path, *arguments: str) -> int:
    return run_app(["sample", "--ckpt", str(run), "--output", str(output), *arguments])


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (4, "4"),
        ("a four", "a four"),
        ("word " * 20, "word word word word word word word wo..."),
        ((0.0, 0.5, *([0.0] * 5), 0.5, 0.0, 0.0), "0.5 x 1 + 0.5 x 7"),
        ((-1.0, 0.25), "-1, 0.25"),
    ],
)
def test_rows_of_a_grid_are_named_by_what_was_asked(wanted: int | str | tuple[float, ...], name: str) -> None:
    assert row_name(wanted, NAMES) == name


@pytest.mark.parametrize(
    ("kind", "arguments", "num"),
    [
        ("label", ("--label", "4"), 1),
        ("vector", ("--label", "4"), 1),
        ("vector", ("--vector", "0,0,0,0.5,0,0.5,0,0,0,0"), 1),
        ("vector", ("--vector", "1,0,0,0,0,0,0,0,0,0", "--vector", "0,1,0,0,0,0,0,0,0,0", "--num", "6"), 6),
        ("text", ("--prompt", "a handwritten four"), 1),
        ("text", ("--prompt", "four", "--prompt", "five"), 16),
        ("text", ("--label", "4", "--negative-label", "5"), 1),
        ("text", ("--prompt", "four", "--negative-prompt", "five", "--guidance", "3"), 1),
        ("text", (), 80),
    ],
)
def test_every_kind_trains_and_samples(
    runs: dict[str, Path], tmp_path: Path, kind: str, arguments: tuple[str, ...], num: int
) -> None:
    assert sample(runs[kind], tmp_path / "x.npz", *arguments) == 0
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (num, 8, 8, 1)
    assert sample(runs[kind], tmp_path / "x.png", *arguments) == 0
    assert Image.open(tmp_path / "x.png").width > 50
    assert (runs[kind] / "samples" / "step_000002.png").is_file()


def test_a_prompt_and_the_label_that_it_words_give_the_same_samples(runs: dict[str, Path]) -> None:
    spoken = ef.sample(runs["text"], num=4, prompts=["a picture of a four", "a picture of a two"])
    named = ef.sample(runs["text"], num=4, labels=[4, 2])
    other = ef.sample(runs["text"], num=4, prompts=["a picture of a five"])
    assert torch.equal(spoken.x, named.x) and not torch.equal(spoken.x, other.x)
    assert spoken.conditions == ("a picture of a four",) * 2 + ("a picture of a two",) * 2 and named.labels == (
        4,
        4,
        2,
        2,
    )
    vectors = ef.sample(runs["vector"], num=2, vectors=[[float(i == k) for i in range(10)] for k in (3, 8)])
    assert torch.equal(vectors.x, ef.sample(runs["vector"], num=2, labels=[3, 8]).x)


def test_a_negative_prompt_takes_the_place_of_the_null(runs: dict[str, Path]) -> None:
    """u + w (c - u) with u = c is c whatever w; with the null as u it is not."""
    model = Model.from_run(runs["text"])
    shaken(model.denoiser.net)

    def drawn(**more: object) -> Tensor:
        plan = Plan(seeds=(0, 1), conditions=("four", "four"), num_steps=2, **more)
        return next(s.x for s in generate(model, plan) if s.done)

    plain = drawn()
    torch.testing.assert_close(drawn(guidance=3.0, negative="four"), plain, rtol=1e-4, atol=1e-4)
    assert float((drawn(guidance=3.0) - plain).abs().max()) > 1e-3
    torch.testing.assert_close(drawn(guidance=3.0, negative=""), drawn(guidance=3.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("label", ("--prompt", "a four"), "trained on class labels: it takes no prompts"),
        ("label", ("--negative-prompt", "a four"), "trained on class labels: it takes no prompts"),
        ("label", ("--vector", "1,0"), "trained on class labels: it takes no vectors"),
        ("vector", ("--prompt", "a four"), "trained on vectors: it takes no prompts"),
        ("vector", ("--vector", "1,0"), "have 10 numbers, got 2"),
        ("vector", ("--vector", "1,zero"), "--vector must be a list such as 1,2.5"),
        ("text", ("--vector", "1,0"), "trained on texts: it takes no vectors"),
        ("text", ("--label", "eleven"), "label 'eleven' is unknown"),
        ("text", ("--prompt", "a", "--label", "4"), "--labels and --prompt all choose"),
        ("text", ("--prompt", "a", "--negative-prompt", "b", "--guidance", "1"), "acts through guidance"),
        ("text", ("--negative-prompt", "b", "--negative-label", "1"), "Give one"),
        ("none", ("--prompt", "a four"), "unconditional: it cannot take prompts"),
        ("none", ("--vector", "1,0"), "unconditional: it cannot take vectors"),
        ("none", ("--label", "4"), "unconditional: it cannot take labels"),
        ("none", ("--negative-prompt", "b"), "this model is unconditional"),
    ],
)
def test_wrong_requests_are_one_sentence(
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert sample(runs[kind], tmp_path / "x.png", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("net", ["dit", "mlp"])
@pytest.mark.parametrize("kind", ["vector", "text"])
def test_other_nets_train_too(tmp_path: Path, net: str, kind: str) -> None:
    data = "gaussians" if net == "mlp" else "digits"
    settings = [f"net.{key}={value}" for key, value in SMALL[net].items()]
    settings += [f"net.kind={net}", f"conditioning.kind={kind}", "train.batch_size=8", "sample.num_steps=1"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    folder = tmp_path / "run"
    assert run_app(["train", "--data", data, "--max-steps", "2", "--save-dir", str(folder), *arguments]) == 0
    assert sample(folder, tmp_path / "x.png") == 0


def pictures(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    for i, row in enumerate(rows):
        row["file_name"] = f"{i}.png"
        Image.fromarray(np.full((8, 8), 255 if "white" in str(row["text"]) else 0, dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_folder_with_captions_trains_on_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pictures(tmp_path / "data", [{"text": "white" if i % 2 else "black"} for i in range(20)])
    folder = tmp_path / "run"
    settings = ["--set", "net.channels=[8,8]", "--set", "train.batch_size=8", "--set", "sample.num_steps=1"]
    assert run_app(["train", "--data", str(data), "--max-steps", "2", "--save-dir", str(folder), *settings]) == 0
    run = open_run(folder)
    assert isinstance(run.config.conditioning, TextConditioning) and set(run.facts.captions) == {"black", "white"}
    assert sample(folder, tmp_path / "x.npz", "--prompt", "white") == 0
    capsys.readouterr()
    assert sample(folder, tmp_path / "y.npz", "--label", "white") == 2
    assert "knows no labels" in capsys.readouterr().err


def test_text_is_learned(tmp_path: Path) -> None:
    """White and black squares by caption: the samples have the colour that was asked for."""
    data = pictures(tmp_path / "data", [{"text": "a white square" if i % 2 else "a black square"} for i in range(20)])
    settings = [
        "net.kind=mlp",
        "conditioning.kind=text",
        "conditioning.dim=32",
        "conditioning.depth=1",
        "optimiser.kind=adamw",
        "train.batch_size=32",
    ]
    settings += [
        "train.warmup_steps=5",
        "sample.num_steps=4",
        "train.held_out_every=0",
        "ema.decay=0.9",
        "train.lr=3e-3",
    ]
    arguments = [part for setting in settings for part in ("--set", setting)]
    folder = tmp_path / "run"
    preset = ["--config", str(tmp_path / "net.toml")]
    (tmp_path / "net.toml").write_text('[net]\nkind = "mlp"\ndim = 32\ndepth = 2\n')
    assert (
        run_app(["train", *preset, "--data", str(data), "--max-steps", "120", "--save-dir", str(folder), *arguments])
        == 0
    )
    made = ef.sample(folder, num=16, prompts=["a white square", "a black square"], guidance=1.0)
    means = made.x.flatten(1).mean(dim=1)
    assert bool((means[:8] > 0.5).all()) and bool((means[8:] < -0.5).all())


def test_vectors_of_an_npz_file_are_conditions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = np.random.default_rng(0)
    x = g.integers(0, 255, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=x, vectors=g.normal(size=(20, 3)).astype(np.float32))
    splits = load_dataset(tmp_path / "d.npz")
    assert splits.train.vectors is not None and splits.train.vectors.shape == (18, 3)
    rows = {tuple(image.flatten().tolist()): i for i, image in enumerate(x)}
    wanted = np.load(tmp_path / "d.npz")["vectors"]
    for image, vector in zip(splits.train.x, splits.train.vectors, strict=True):
        assert np.array_equal(vector.numpy(), wanted[rows[tuple(image.flatten().tolist())]])
    folder = train(tmp_path / "run", "vector", "conditioning.source=data", data=str(tmp_path / "d.npz"))
    assert len(open_run(folder).facts.vectors) == 10
    assert sample(folder, tmp_path / "x.png") == 0
    assert sample(folder, tmp_path / "y.png", "--vector=-1,0.5,2") == 0
    np.savez(tmp_path / "bad.npz", x=x, vectors=np.zeros((20,), dtype=np.float32))
    capsys.readouterr()
    assert run_app(["train", "--data", str(tmp_path / "bad.npz"), "--save-dir", str(tmp_path / "no")]) == 2
    assert "expected vectors (20, K)" in capsys.readouterr().err


# -- pretrained encoders --------------------------------------------------------------------------------------------


def save_encoder(folder: Path, kind: str) -> Path:
    """A tiny text encoder with random weights and a word-level tokeniser, as such things lie on disk."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=12,
            bos_token_id=3,
            eos_token_id=1,
            pad_token_id=0,
        )
        transformers.CLIPTextModel(config).save_pretrained(folder)
    else:
        config = transformers.T5Config(
            vocab_size=len(WORDS),
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
        transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "t5"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp(request.param), request.param)


def pretrained(encoder: Path, injection: str = "cross_attention") -> TextConditioner:
    torch.manual_seed(0)
    return PretrainedTextConditioning(model=str(encoder), dim=16, injection=injection).build(FACTS).eval()  # type: ignore[arg-type]


def test_a_pretrained_encoder_says_what_it_says_alone_and_unpadded(encoder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    cls = transformers.CLIPTextModel if "clip" in encoder.name else transformers.T5EncoderModel
    direct, tokeniser = cls.from_pretrained(encoder).eval(), transformers.AutoTokenizer.from_pretrained(encoder)
    c = pretrained(encoder)
    assert isinstance(c.encoder, PretrainedEncoder)
    texts = ["a handwritten four", "", "a picture of a seven", "two"]
    context = c(c.read(texts))
    assert context.tokens is not None and context.mask is not None
    for i, text in enumerate(texts):
        if text:
            ids = torch.tensor([tokeniser(text)["input_ids"]])
            with torch.no_grad():
                hidden = direct(input_ids=ids).last_hidden_state[0]
            wanted = c.encoder.project(c.encoder.norm(hidden))
        else:
            wanted = c.nothing[None]
        torch.testing.assert_close(context.tokens[i][context.mask[i]], wanted, rtol=1e-4, atol=1e-5)


def test_a_pretrained_encoder_is_frozen_shared_and_asked_once_a_caption(encoder: Path) -> None:
    c = pretrained(encoder, "scale")
    assert isinstance(c.encoder, PretrainedEncoder)
    frozen, calls = c.encoder.frozen, []
    frozen.model.register_forward_hook(lambda *_: calls.append(1))
    assert {name.split(".")[0] for name in c.state_dict()} == {"nothing", "encoder"}
    assert {name for name in c.state_dict() if "encoder" in name} == {
        f"encoder.{part}.{p}" for part in ("norm", "project") for p in ("weight", "bias")
    }
    twin = copy.deepcopy(c)
    assert isinstance(twin.encoder, PretrainedEncoder) and twin.encoder.frozen is frozen
    cond = c.read([0, 1, 2, 1, 0, 0])
    before = [p.clone() for p in frozen.model.parameters()]
    c.train()
    told(c, cond).square().sum().backward()
    assert all(p.grad is None for p in frozen.model.parameters()) and not frozen.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.model.parameters(), strict=True))
    assert (len(calls), len(frozen.cache)) == (1, 3)
    told(twin, cond.flip(0))
    assert (len(calls), len(frozen.cache)) == (1, 3)
    told(c, c.read([0, 3]))
    assert (len(calls), len(frozen.cache)) == (2, 4)


def test_a_pretrained_encoder_remembers_no_more_than_its_limit_and_forgets_the_oldest(encoder: Path) -> None:
    c = pretrained(encoder)
    frozen, wanted = c.encoder.frozen, told(c, c.read([0, 1, 2]))
    (first, second, third), sizes = list(frozen.cache), [row.nbytes for row in frozen.cache.values()]
    frozen.limit, calls = sum(sizes), []
    frozen.model.register_forward_hook(lambda *_: calls.append(1))
    told(c, c.read([0]))
    assert list(frozen.cache) == [second, third, first] and not calls, "used again, it is the newest"
    told(c, c.read([3]))
    assert second not in frozen.cache and first in frozen.cache
    assert sum(row.nbytes for row in frozen.cache.values()) <= frozen.limit
    frozen.limit = 0
    torch.testing.assert_close(told(c, c.read([0, 1, 2])), wanted, msg="what does not fit is still answered")
    assert not frozen.cache


def test_the_net_does_not_depend_on_how_an_encoder_is_loaded(encoder: Path) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        PretrainedTextConditioning(model=str(encoder), dim=16).make_encoder()
        weights.append(torch.rand(3))
    torch.manual_seed(5)
    nn.Linear(32, 16)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], torch.rand(3))


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_pretrained_encoder_trains_and_samples(encoder: Path, tmp_path: Path, injection: str) -> None:
    options = (f'conditioning.model="{encoder}"', f"conditioning.injection={injection}")
    folder = train(tmp_path / "run", "pretrained_text", *options)
    assert sample(folder, tmp_path / "x.png", "--prompt", "a handwritten four", "--negative-prompt", "a two") == 0
    held = set(open_run(folder).checkpoint.tensors("model"))
    assert not any("frozen" in name for name in held)


def test_a_pretrained_encoder_reads_the_captions_of_data_once_for_all_runs(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EBBFLOW_CACHE", str(tmp_path))
    words, rng = ("a", "two", "four", "seven", "picture"), np.random.default_rng(0)
    texts = tuple(" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(150))
    data = Dataset(name="texts", x=torch.zeros(150, 1), labels=None, label_names=(), captions=texts)
    calls: list[int] = []
    for again in (False, True):
        c = pretrained(encoder)
        frozen, cond = c.encoder.frozen, c.conditions(data)
        frozen.model.register_forward_hook(lambda *_: calls.append(1))
        wanted = told(c, cond)
        plain, calls[:] = dict(frozen.cache), []
        finish(shelve(c, (data, data.select(torch.arange(9))), torch.device("cpu")))
        assert bool(calls) is not again
        frozen.cache.clear()
        calls.clear()
        torch.testing.assert_close(told(c, cond), wanted, rtol=1e-4, atol=1e-5)
        assert not calls and not frozen.cache and len(frozen.embedded.places) == len(set(texts))
        for key, row in plain.items():
            torch.testing.assert_close(frozen.embedded.get(key), row, rtol=1e-4, atol=1e-5)
        told(c, c.read(["seven seven seven seven seven seven seven"]))
        assert len(calls) == len(frozen.cache) == 1, "another caption is asked for"
        calls.clear()
    c = pretrained(encoder)
    next(c.encoder.frozen.model.parameters()).data.add_(1)
    finish(shelve(c, (data,), torch.device("cpu")))
    assert len(list((tmp_path / "texts").iterdir())) == 2, "another encoder"


def test_texts_are_cut_to_what_the_encoder_reads(tmp_path: Path) -> None:
    c = pretrained(save_encoder(tmp_path / "clip", "clip"))
    assert c.encoder.max_length == 12
    assert told(c, c.read(["a " * 50])).shape[1] == 12


def test_a_missing_package_or_encoder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(
        tmp_path / "run", "pretrained_text", f'conditioning.model="{save_encoder(tmp_path / "clip", "clip")}"'
    )
    base = ["train", "--save-dir", str(tmp_path / "no"), "--set", "conditioning.kind=pretrained_text", "--set"]
    empty = tmp_path / "empty"
    empty.mkdir()
    for name, message in ((tmp_path / "absent", "there is no such folder"), (empty, "cannot be loaded")):
        capsys.readouterr()
        assert run_app([*base, f'conditioning.model="{name}"']) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert sample(folder, tmp_path / "x.png", "--prompt", "four") == 2
    assert "pip install -e '.[text]'" in capsys.readouterr().err


def test_a_run_of_another_kind_is_not_read_as_this_one(tmp_path: Path, runs: dict[str, Path]) -> None:
    state = next((runs["text"] / "checkpoints").glob("step_*")) / "state.json"
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in state.parent.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    told_state = json.loads(state.read_text())
    told_state["config"]["conditioning"] = {"kind": "label", "dim": 16}
    (twin / "state.json").write_text(json.dumps(told_state))
    with pytest.raises(CheckpointError, match="another"):
        open_run(twin).denoiser()
