"""The search for a recipe: its variants are configurations, its log is the page's table, and the presets are what won."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import recipe
from ebbflow.config import parse, read_preset
from ebbflow.data import Dataset, Splits

WON = {"mnist_1min": "shuffle", "mnist_6min": "shuffle 48-96", "mnist_30min": "shuffle 64-128"}
PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"


def test_every_variant_is_a_configuration_of_its_own() -> None:
    found = [recipe.config_of(name, seed=3) for name in recipe.VARIANTS]
    assert all(config.train.seed == 3 and config.data.name == "mnist" for config in found)
    assert len(set(map(repr, found))) == len(found), "two variants are the same"


@pytest.mark.parametrize(("preset", "variant"), WON.items())
def test_the_presets_are_the_variants_that_won(preset: str, variant: str) -> None:
    shipped, searched = parse(read_preset(preset)), recipe.config_of(variant, seed=0)
    for section in ("net", "path", "objective", "conditioning", "optimiser", "engine"):
        assert getattr(shipped, section) == getattr(searched, section), section
    assert shipped.ema.lengths == searched.ema.lengths
    for key in ("batch_size", "lr", "warmup_steps", "schedule", "weight_decay", "clip"):
        assert getattr(shipped.train, key) == getattr(searched.train, key), key
    assert f"{shipped.train.minutes:g}min" == preset.removeprefix("mnist_")
    evaluations = {"heun": 2 * shipped.sample.num_steps - 1}[shipped.sample.sampler]
    assert (2 if shipped.sample.guidance != 1 else 1) * evaluations <= 20


def test_the_page_shows_the_log() -> None:
    rows = recipe.read_log(recipe.LOG)
    assert {row["variant"] for row in rows} <= set(recipe.VARIANTS)
    assert recipe.log_table(recipe.LOG) in PAGE.read_text(encoding="utf-8"), (
        "docs/recipe.md is not the log's: put the output of `python benchmarks/recipe.py --table` there"
    )


def test_a_variant_trains_and_tells_what_it_took() -> None:
    x = torch.randint(0, 256, (64, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Dataset(name="mnist", x=x, labels=torch.arange(64) % 10, label_names=tuple("0123456789"))
    trained = recipe.train(recipe.config_of("shuffle", seed=0), Splits(train=data, held_out=data), minutes=1e-6)
    assert trained.facts["steps"] == 1
    assert trained.facts["images"] == 64
    assert trained.facts["parameters"] == sum(p.numel() for p in trained.model.denoiser.net.parameters())
    assert 60 < trained.facts["forward_mflop"] < 90
