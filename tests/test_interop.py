"""Pipelines of diffusers with small random weights, saved and opened as ours: the same walk as their own loop."""

from __future__ import annotations

import inspect
import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Stream
from PIL import Image
from torch import Tensor

import ebbflow as ef
from ebbflow.cli.app import run_app
from ebbflow.core.paths import PATHS, CosineDiscrete, DiscretePath, Flow, VPDiscrete
from ebbflow.data import Dataset
from ebbflow.errors import ConfigError
from ebbflow.interop import PIPELINES, load_diffusers, readers
from ebbflow.interop.schedule import TableTimes, TrainedTable, read_schedule
from ebbflow.methods.clipping import Clipped
from ebbflow.methods.samplers import SAMPLERS
from ebbflow.runs.model import Model

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = ("<pad>", "</s>", "<unk>", "<s>", "a", "red", "blue", "cat", "dog", "ugly")
PROMPTS = ["a red cat", "a dog"]
LABELS = [0, 7]
LENGTH = 8  # tokens that the small CLIPs read
SIZES = {"FluxPipeline": 16}  # theirs would be 1024 pixels
Opened = Callable[..., tuple[Any, Model]]


# -- small parts with random weights ----------------------------------------------------------------------------------


def tokeniser() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=LENGTH,
    )


def clip(cls: str, width: int = 16) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=width,
        intermediate_size=32,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=3,
        eos_token_id=1,
        pad_token_id=0,
    )
    return getattr(transformers, cls)(config).eval()


def t5(width: int = 32) -> Any:
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1
    )
    return transformers.T5EncoderModel(config).eval()


def vae(channels: int = 4, **options: Any) -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=channels,
        layers_per_block=1,
        sample_size=16,
        **options,
    )


def unet(**options: Any) -> Any:
    settings = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DModel(**{**settings, **options})


def text_unet(width: int, **options: Any) -> Any:
    settings = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": width,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**{**settings, **options})


def ddim(**options: Any) -> Any:
    return diffusers.DDIMScheduler(**{"clip_sample": False, **options})


LATENT = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def stable_diffusion(scheduler: Any = None) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip("CLIPTextModel"),
        tokenizer=tokeniser(),
        unet=text_unet(16),
        scheduler=scheduler or ddim(**LATENT),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(scheduler: Any = None, **options: Any) -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13),
        text_encoder=clip("CLIPTextModel"),
        text_encoder_2=clip("CLIPTextModelWithProjection"),
        tokenizer=tokeniser(),
        tokenizer_2=tokeniser(),
        unet=text_unet(
            32, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=64
        ),
        scheduler=scheduler or ddim(**LATENT),
        add_watermarker=False,
        **options,
    )


def dit(scheduler: Any = None, num_classes: int = 1000) -> Any:
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    )
    return diffusers.DiTPipeline(transformer=net, vae=vae(), scheduler=scheduler or ddim())


def stable_diffusion_3(scheduler: Any = None, with_t5: bool = True) -> Any:
    net = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=48,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=net,
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip("CLIPTextModelWithProjection"),
        tokenizer=tokeniser(),
        text_encoder_2=clip("CLIPTextModelWithProjection"),
        tokenizer_2=tokeniser(),
        text_encoder_3=t5(48) if with_t5 else None,
        tokenizer_3=tokeniser() if with_t5 else None,
    )


def flux(scheduler: Any = None, distilled: bool = True) -> Any:
    net = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    return diffusers.FluxPipeline(
        scheduler=scheduler or diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(scaling_factor=0.36, shift_factor=0.12),
        text_encoder=clip("CLIPTextModel"),
        tokenizer=tokeniser(),
        text_encoder_2=t5(),
        tokenizer_2=tokeniser(),
        transformer=net,
    )


SCHEDULERS: dict[str, Callable[[], Any]] = {
    "euler": lambda: diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    ),
    "dynamic": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    "plain": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
    "v": lambda: ddim(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        **{**LATENT, "set_alpha_to_one": True},
    ),
}
MAKERS: dict[str, Callable[..., Any]] = {
    "DDPMPipeline": lambda scheduler=None: diffusers.DDPMPipeline(unet=unet(), scheduler=scheduler or ddim()),
    "DDIMPipeline": lambda scheduler=None: diffusers.DDIMPipeline(unet=unet(), scheduler=scheduler or ddim()),
    "DiTPipeline": dit,
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusion3Pipeline": stable_diffusion_3,
    "FluxPipeline": flux,
}
TEXT = [name for name, kind in PIPELINES.items() if kind.encode is not None]


def saved(make: Callable[[], Any], folder: Path) -> Any:
    """A pipeline with random weights, and its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = make()
        with torch.no_grad():  # layers that start at zero would make the condition mute
            for net in nets_of(pipe):
                for p in net.eval().parameters():
                    p.add_(0.05 * torch.randn(p.shape))
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def nets_of(pipe: Any) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Model]]:
    """(kind, options of its maker) -> their pipeline and our model of the same folder; each made once."""
    made: dict[str, tuple[Any, Model]] = {}

    def get(kind: str, tag: str = "", **options: Any) -> tuple[Any, Model]:
        if kind + tag not in made:
            folder = tmp_path_factory.mktemp("pipeline")
            made[kind + tag] = (
                saved(lambda: MAKERS[kind](**options), folder),
                load_diffusers(folder, size=SIZES.get(kind)),
            )
        return made[kind + tag]

    return get


# -- their walk and ours ----------------------------------------------------------------------------------------------


def start(model: Model, num: int = 2) -> Tensor:
    return torch.randn(num, *model.facts.state_dims, generator=torch.Generator().manual_seed(5))


def theirs(
    pipe: Any, model: Model, num_steps: int, guidance: float = 1.0, negative: str | None = None, **options: Any
) -> tuple[list[Tensor], Tensor]:
    """The states of their own loop after each step, and their images in [0, 1]."""
    kind, x, states = type(pipe).__name__, start(model), []
    call: dict[str, Any] = {"num_inference_steps": num_steps, "output_type": "pt", **options}
    if kind in TEXT:
        negatives = None if negative is None else [negative] * len(x)
        scale = "true_cfg_scale" if kind == "FluxPipeline" else "guidance_scale"
        call |= {"prompt": PROMPTS, "latents": x, "negative_prompt": negatives, scale: guidance}
        call |= {"height": model.facts.dims[1], "width": model.facts.dims[2]}
    else:
        call["generator"] = torch.Generator().manual_seed(5)
        call |= (
            {"class_labels": LABELS, "guidance_scale": guidance} if kind == "DiTPipeline" else {"batch_size": len(x)}
        )
    if kind == "FluxPipeline":
        call["latents"] = pipe._pack_latents(x, *x.shape)
    step = pipe.scheduler.step

    def noted(*args: Any, **kwargs: Any) -> Any:
        out = step(*args, **kwargs)
        state = out[0][: len(x)]
        states.append(pipe._unpack_latents(state, 16, 16, 2) if kind == "FluxPipeline" else state)
        return out

    pipe.scheduler.step = noted
    try:
        images = pipe(**call).images
    finally:
        pipe.scheduler.step = step
    return states, torch.as_tensor(images)


def ours(
    model: Model,
    num_steps: int,
    guidance: float = 1.0,
    negative: str | None = None,
    sampler: str | None = None,
    clip: bool = False,
    **options: Any,
) -> list[Tensor]:
    """The states of our sampler on the model's own times."""
    denoiser: Any = model.denoiser
    if guidance != 1:
        far = None if negative is None else model.read([negative])
        denoiser = ef.classifier_free(denoiser, guidance=guidance, negative=far)
    if model.is_conditional:
        denoiser = denoiser.given(model.read(PROMPTS if not model.facts.label_names else LABELS))
    denoiser = Clipped(inner=denoiser) if clip else denoiser
    times = model.grid(model.denoiser.path, num_steps)
    name = sampler or {"ddpm": "ddim"}.get(model.defaults.sampler, model.defaults.sampler)
    return [step.x for step in SAMPLERS[name](denoiser, start(model), times, **options)]


def agree(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


def pixels(model: Model, state: Tensor) -> Tensor:
    """What a picture shows of a state: in [0, 1]."""
    with torch.no_grad():
        return ((state if model.space is None else model.space.decode(state)) / 2 + 0.5).clamp(0, 1)


each_kind = pytest.mark.parametrize("kind", MAKERS)
each_text = pytest.mark.parametrize("kind", TEXT)


def test_every_kind_of_pipeline_is_tested() -> None:
    assert set(MAKERS) == set(PIPELINES)


@each_kind
@pytest.mark.parametrize("num_steps", [1, 4, 20])
def test_our_walk_is_theirs(opened: Opened, kind: str, num_steps: int) -> None:
    pipe, model = opened(kind)
    states, images = theirs(pipe, model, num_steps)
    found = ours(model, num_steps)
    agree(found, states)
    torch.testing.assert_close(pixels(model, found[-1]), images, rtol=0, atol=1e-4)
    assert images.std() > 0.01 and model.facts.dims == tuple(images.shape[1:])


@pytest.mark.parametrize("kind", [*TEXT, "DiTPipeline"])
@pytest.mark.parametrize("negative", [None, "ugly"])
def test_guidance_and_negative_prompts_are_theirs(opened: Opened, kind: str, negative: str | None) -> None:
    if (kind == "FluxPipeline" and negative is None) or (kind == "DiTPipeline" and negative is not None):
        return  # theirs guides Flux from a negative prompt only, and DiT from its null class only
    pipe, model = opened(kind)
    found = ours(model, 4, guidance=4.0, negative=negative)
    agree(found, theirs(pipe, model, 4, guidance=4.0, negative=negative)[0])
    assert (found[-1] - ours(model, 4)[-1]).abs().max() > 1e-2, "the condition is mute: nothing was compared"


def test_an_empty_negative_prompt_is_the_null_of_flux(opened: Opened) -> None:
    pipe, model = opened("FluxPipeline")
    agree(ours(model, 4, guidance=3.0), theirs(pipe, model, 4, guidance=3.0, negative="")[0])


@pytest.mark.parametrize(
    ("kind", "tag", "options"),
    [
        ("StableDiffusionXLPipeline", "empty prompt as null", {"force_zeros_for_empty_prompt": False}),
        ("StableDiffusionXLPipeline", "their Euler", {"scheduler": "euler"}),
        ("StableDiffusion3Pipeline", "without T5", {"with_t5": False}),
        ("StableDiffusion3Pipeline", "dynamic shift", {"scheduler": "dynamic"}),
        ("FluxPipeline", "not distilled, no shift", {"distilled": False, "scheduler": "plain"}),
        ("StableDiffusionPipeline", "v, no signal at the end", {"scheduler": "v"}),
    ],
)
def test_their_variants(opened: Opened, kind: str, tag: str, options: dict[str, Any]) -> None:
    if "scheduler" in options:
        options = {**options, "scheduler": SCHEDULERS[options["scheduler"]]()}
    pipe, model = opened(kind, tag, **options)
    guidance, negative = (1.0, None) if kind == "FluxPipeline" else (4.0, None)
    states = theirs(pipe, model, 5, guidance, negative)[0]
    if tag == "their Euler":  # it keeps x / alpha
        c = model.denoiser.path.at(model.grid(model.denoiser.path, 5)[1:])
        states = [state * float(alpha) for state, alpha in zip(states, c.alpha, strict=True)]
    agree(ours(model, 5, guidance, negative), states)


def test_the_distilled_guidance_is_told(opened: Opened, tmp_path: Path) -> None:
    pipe, _ = opened("FluxPipeline")
    pipe.save_pretrained(tmp_path)
    model = load_diffusers(tmp_path, size=16, distilled_guidance=1.5)
    agree(ours(model, 4), theirs(pipe, model, 4, guidance_scale=1.5)[0])
    assert (ours(model, 4)[-1] - ours(opened("FluxPipeline")[1], 4)[-1]).abs().max() > 1e-4


def test_ancestral_sampling_is_theirs(tmp_path: Path) -> None:
    """All table steps, for otherwise they add noise of the first entry to the result."""
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20, clip_sample=False, variance_type="fixed_small")
    pipe, model = (
        saved(lambda: diffusers.DDPMPipeline(unet=unet(), scheduler=scheduler), tmp_path),
        load_diffusers(tmp_path),
    )
    assert model.defaults.sampler == "ddpm" and model.defaults.num_steps == 20
    noise = Stream(5)
    noise.like(start(model))  # the start, which they draw from the same generator
    agree(ours(model, 20, sampler="ddpm", noise=noise, **model.defaults.options), theirs(pipe, model, 20)[0])


def test_clipping_is_theirs(tmp_path: Path) -> None:
    make = lambda: diffusers.DDIMPipeline(unet=unet(), scheduler=diffusers.DDIMScheduler())  # noqa: E731
    pipe, model = saved(make, tmp_path), load_diffusers(tmp_path)
    assert model.defaults.clip
    agree(ours(model, 5, clip=True), theirs(pipe, model, 5, use_clipped_model_output=True)[0])


# -- through the door that every model has ----------------------------------------------------------------------------


@each_kind
def test_a_model_is_sampled_like_any_other(opened: Opened, kind: str) -> None:
    """Its own times, sampler and guidance by default; sample i from its seed alone."""
    _, model = opened(kind)
    asked: dict[str, Any] = {"prompts": PROMPTS} if kind in TEXT else {"labels": LABELS} if model.label_names else {}
    made = model.sample(num=2, steps=3, seed=3, sampler="ddim", **asked)
    assert made.x.shape == (2, *model.dims) and made.images is not None
    times = model.grid(model.denoiser.path, 3)  # type: ignore[operator]
    eps = ef.Noise([3, 4]).draw(model.facts.state_dims)
    denoiser: Any = model.denoiser
    if model.defaults.guidance != 1 and model.is_conditional:
        denoiser = ef.classifier_free(denoiser, guidance=model.defaults.guidance)
    if model.is_conditional:
        denoiser = denoiser.given(model.read(PROMPTS if kind in TEXT else LABELS))
    denoiser = Clipped(inner=denoiser) if model.defaults.clip else denoiser
    *_, last = SAMPLERS["ddim"](denoiser, eps * float(model.denoiser.path.at(times[0]).sigma), times)
    torch.testing.assert_close(made.x, model.decode(last.x), rtol=1e-4, atol=1e-4)


def test_negative_prompts_and_edits_reach_it(opened: Opened) -> None:
    _, model = opened("StableDiffusionXLPipeline")
    plain, away = (
        model.sample(prompts=["a cat"], steps=3, num=1, **more) for more in ({}, {"negative_prompt": "ugly"})
    )
    assert not torch.equal(plain.x, away.x)
    edited_ = model.edit(plain.x[0].clamp(-1, 1), strength=0.5, prompts=["a dog"], steps=3, num=1)
    assert edited_.x.shape == plain.x.shape and torch.isfinite(edited_.x).all()


@each_text
def test_a_moved_net_takes_its_conditions_along(opened: Opened, kind: str, tmp_path: Path) -> None:
    opened(kind)[0].save_pretrained(tmp_path)
    half = load_diffusers(tmp_path, size=16).to(dtype=torch.bfloat16)
    assert torch.isfinite(half.sample(prompts=PROMPTS, steps=2, num=2).x).all()


def test_a_net_alone_is_sampled_and_moved(tmp_path: Path) -> None:
    unet().save_pretrained(tmp_path)
    model = load_diffusers(tmp_path, path="vp_discrete", prediction="v")
    made = model.sample(num=2, steps=3)
    half = model.to(dtype=torch.bfloat16).sample(num=2, steps=3)
    assert made.x.shape == half.x.shape == (2, 3, 8, 8) and torch.isfinite(half.x).all()


# -- times and tables -------------------------------------------------------------------------------------------------


@each_kind
def test_defaults_are_their_own(opened: Opened, kind: str) -> None:
    _, model = opened(kind)
    own = inspect.signature(getattr(diffusers, kind).__call__).parameters
    assert model.defaults.num_steps == own["num_inference_steps"].default
    name = "true_cfg_scale" if kind == "FluxPipeline" else "guidance_scale"
    assert model.defaults.guidance == (own[name].default if name in own else 1.0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "cls", ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep"]
)
def test_the_grid_visits_their_timesteps(cls: str, spacing: str) -> None:
    options = {"skip_prk_steps": True, "set_alpha_to_one": True} if cls == "PNDM" else {}
    scheduler = getattr(diffusers, f"{cls}Scheduler")(timestep_spacing=spacing, **options)
    schedule = read_schedule(scheduler, num_tokens=1, plain=False)
    scheduler.set_timesteps(10)
    wanted = list(dict.fromkeys(float(t) for t in scheduler.timesteps))
    times = schedule.grid(schedule.path, 10)
    assert times.dtype == torch.float64 and times[-1] == 0
    torch.testing.assert_close(times[:-1] * 1000 - 1, torch.tensor(wanted).double(), rtol=0, atol=1e-3)


def test_a_grid_that_ends_at_the_first_entry_does() -> None:
    schedule = read_schedule(ddim(**LATENT), num_tokens=1, plain=False)
    assert schedule.grid(schedule.path, 50)[-2:].tolist() == [2 / 1000, 1 / 1000]
    with pytest.raises(ValueError, match="another number of steps"):
        schedule.grid(schedule.path, 1000)


TABLES: dict[str, tuple[dict[str, Any], type]] = {
    "linear": ({"beta_schedule": "linear"}, VPDiscrete),
    "linear/50": ({"beta_schedule": "linear", "num_train_timesteps": 50}, VPDiscrete),
    "scaled_linear": ({"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012}, VPDiscrete),
    "squaredcos": ({"beta_schedule": "squaredcos_cap_v2"}, CosineDiscrete),
    "no signal at the end": ({"rescale_betas_zero_snr": True}, VPDiscrete),
    "trained": ({"trained_betas": [0.01, 0.1, 0.05, 0.2, 0.3], "num_train_timesteps": 5}, TrainedTable),
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_theirs(table: str) -> None:
    options, kind = TABLES[table]
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", **options)
    path = read_schedule(scheduler, num_tokens=1, plain=False).path
    assert type(path) is kind and isinstance(path, DiscretePath)
    torch.testing.assert_close(path.alpha_bars, scheduler.alphas_cumprod.double(), rtol=5e-4, atol=2e-6)


@pytest.mark.parametrize(("name", "ours"), [("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")])
def test_predictions_have_our_names(name: str, ours: str) -> None:
    assert read_schedule(ddim(prediction_type=name), num_tokens=1, plain=False).prediction == ours


# -- conditions and latents -------------------------------------------------------------------------------------------


def test_a_prompt_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(stable_diffusion_3, tmp_path)
    model, calls, forward = load_diffusers(tmp_path), [], transformers.T5EncoderModel.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(transformers.T5EncoderModel, "forward", counted)
    first: Any = model.read(["a red cat", "a dog", "a red cat"])
    assert len(calls) == 2
    again: Any = model.read(["a dog", "a red cat"])
    model.sample(prompts=["a dog"], guidance=2.0, negative_prompt="a red cat", steps=2, num=2)
    assert len(calls) == 3, "the null condition is the empty prompt, and nothing else is new"
    for name in first:
        assert torch.equal(first[name][[1, 0]], again[name])
    with pytest.MonkeyPatch.context() as small:
        small.setattr(readers, "REMEMBERED", 1)
        forgetful = load_diffusers(tmp_path)
        forgetful.read(["a dog", "a red cat"])
        before = len(calls)
        forgetful.read(["a dog"])
        assert len(calls) == before + 1, "the memory is bounded"


@each_text
def test_a_condition_of_many_is_that_of_each(opened: Opened, kind: str) -> None:
    _, model = opened(kind)
    both, alone = model.read(PROMPTS), [model.read([prompt]) for prompt in PROMPTS]
    for name in both:
        torch.testing.assert_close(both[name], torch.cat([one[name] for one in alone]))
    with pytest.raises(ValueError, match="prompts only"):
        model.read(["a cat", 3])


def test_the_conditions_of_data_are_its_captions_or_labels(opened: Opened) -> None:
    data = Dataset(
        name="two",
        x=torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        labels=torch.tensor([1, 0]),
        label_names=("a", "b"),
        captions=tuple(PROMPTS),
    )
    found: Any = opened("StableDiffusionPipeline")[1].conditions_of(data)
    wanted: Any = opened("StableDiffusionPipeline")[1].read(PROMPTS)
    assert torch.equal(found["tokens"], wanted["tokens"])
    classes: Any = opened("DiTPipeline")[1].conditions_of(data)
    assert classes.tolist() == [1, 0]


def test_classes_have_names_and_limits(tmp_path: Path) -> None:
    saved(lambda: dit(num_classes=3), tmp_path / "plain")
    names = {"0": "tench, Tinca tinca", "1": "goldfish"}
    model = load_diffusers(edited(tmp_path / "plain", tmp_path / "named", id2label=names))
    assert model.facts.label_names == ("tench", "goldfish", "2")
    assert model.read([1, 2]).tolist() == [1, 2]
    assert model.denoiser.null(2).tolist() == [3, 3]
    for wrong in (3, "tench"):
        with pytest.raises(ValueError, match="0 to 2"):
            model.read([wrong])


@pytest.mark.parametrize("kind", [name for name, kind in PIPELINES.items() if kind.has_space])
def test_latents_are_scaled_as_theirs(opened: Opened, kind: str) -> None:
    pipe, model = opened(kind)
    assert model.space is not None
    x = torch.rand(2, *model.facts.dims, generator=torch.Generator().manual_seed(1)) * 2 - 1
    config = pipe.vae.config
    with torch.no_grad():
        wanted = (pipe.vae.encode(x).latent_dist.mean - (config.shift_factor or 0)) * config.scaling_factor
        torch.testing.assert_close(model.space.encode(x), wanted)
    assert model.space.dims == model.facts.dims and model.space.latent_dims == model.facts.latent_dims


@each_kind
def test_sizes_are_asked_for_in_pixels(opened: Opened, kind: str, tmp_path: Path) -> None:
    pipe, _ = opened(kind)
    pipe.save_pretrained(tmp_path)
    model = load_diffusers(tmp_path, size=(16, 24))
    assert model.facts.dims == (3, 16, 24)
    wide = PIPELINES[kind].has_space
    if kind != "DiTPipeline":  # its positions are those of one size
        steps = list(SAMPLERS["euler"](bound(model), start(model), torch.tensor([1.0, 0.5, 0.0])))
        assert steps[-1].x.shape == (2, 4, 8, 12) if wide else (2, 3, 16, 24)
    if wide:
        with pytest.raises(ConfigError, match="multiple of"):
            load_diffusers(tmp_path, size=15)


def bound(model: Model) -> Any:
    if not model.is_conditional:
        return model.denoiser
    return model.denoiser.given(model.read(LABELS if model.facts.label_names else PROMPTS))  # type: ignore[arg-type]


@each_kind
def test_every_sampler_walks_every_kind(opened: Opened, kind: str) -> None:
    _, model = opened(kind)
    for name in ("heun", "dpmpp_2m", "unipc", "ddpm"):
        extra = {"noise": ef.Noise([1, 2])} if SAMPLERS[name].takes_noise else {}
        times = model.grid(model.denoiser.path, 4)
        last = list(SAMPLERS[name](bound(model), start(model), times, **extra))[-1].x
        assert torch.isfinite(last).all()


@each_kind
def test_half_precision_works(opened: Opened, kind: str, tmp_path: Path) -> None:
    pipe, model = opened(kind)
    pipe.save_pretrained(tmp_path)
    half = load_diffusers(tmp_path, size=SIZES.get(kind), dtype=torch.bfloat16)
    a, b = (bound(one)(start(model), 0.5).x0 for one in (half, model))
    assert a.dtype == torch.float32 and (a - b).abs().max() < 0.2 * b.abs().max()
    if half.space is not None:
        assert half.space.decode(start(model)).dtype == torch.float32


# -- a net alone ------------------------------------------------------------------------------------------------------


def test_a_net_alone_is_told_its_path(tmp_path: Path) -> None:
    net = unet().eval()
    net.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="path='vp_discrete', prediction='eps'"):
        load_diffusers(tmp_path)
    model = load_diffusers(tmp_path, path="vp_discrete", prediction="eps")
    x = start(model)
    with torch.no_grad():
        torch.testing.assert_close(model.denoiser(x, 0.5).eps, net(x, 499).sample)
        flow = load_diffusers(tmp_path, path=Flow(), prediction="velocity").denoiser(x, 0.5)
        torch.testing.assert_close(flow.eps - flow.x0, net(x, 500).sample)
    assert not model.is_conditional and model.facts.dims == (3, 8, 8)


def test_a_net_alone_with_classes_has_no_null_one(tmp_path: Path) -> None:
    net = unet(num_class_embeds=3).eval()
    net.save_pretrained(tmp_path)
    model = load_diffusers(tmp_path, path="vp_discrete", prediction="v")
    assert model.facts.label_names == ("0", "1", "2")
    x, cond = start(model), model.read([2, 0])
    estimate = model.denoiser.given(cond)(x, 0.5)  # type: ignore[arg-type]
    c = model.denoiser.path.at(0.5)
    with torch.no_grad():
        out = net(x, 499, class_labels=cond).sample
    torch.testing.assert_close((c.alpha * estimate.eps - c.sigma * estimate.x0).float(), out)
    with pytest.raises(ValueError, match="without a condition"):
        ef.classifier_free(model.denoiser, guidance=2.0)


# -- what is refused --------------------------------------------------------------------------------------------------


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder, target)
    file = target / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return target


def test_what_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good"
    pipe = saved(MAKERS["DDIMPipeline"], good)
    cases = {
        "Known: DDIMPipeline": edited(good, tmp_path / "a", _class_name="KolorsPipeline"),
        "never run": edited(good, tmp_path / "b", unet=["my_module", "MyNet"]),
        "has no unet": edited(good, tmp_path / "c", unet=[None, None]),
        "no path here": edited(good, tmp_path / "d", scheduler=["diffusers", "CMStochasticIterativeScheduler"]),
        "there is no such folder": tmp_path / "nothing",
        "in this folder": tmp_path,
    }
    for message, folder in cases.items():
        with pytest.raises(ConfigError, match=message):
            load_diffusers(folder)
    with pytest.raises(ConfigError, match="for a net alone"):
        load_diffusers(good, path="flow")
    pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    with pytest.raises(ConfigError, match="safetensors"):
        load_diffusers(tmp_path / "pickled")


def test_nets_that_want_more_are_refused(tmp_path: Path) -> None:
    for name, options in {"consistency": {"time_cond_proj_dim": 8}, "image besides": {"in_channels": 9}}.items():
        folder = tmp_path / name
        saved(stable_diffusion, folder)
        text_unet(16, **options).save_pretrained(folder / "unet")
        with pytest.raises(ConfigError, match=name):
            load_diffusers(folder)


def test_pickles_are_not_read_and_the_network_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(MAKERS["StableDiffusionPipeline"], tmp_path)

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle or the network was touched")

    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(socket, "socket", refused)
    assert load_diffusers(tmp_path).facts.latent_dims == (4, 8, 8)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved(MAKERS["StableDiffusionPipeline"], tmp_path / "text")
    saved(MAKERS["DDIMPipeline"], tmp_path / "images")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert not load_diffusers(tmp_path / "images").is_conditional
    with pytest.raises(ImportError, match=r"-e '\.\[text\]'"):
        load_diffusers(tmp_path / "text")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"-e '\.\[hf\]'"):
        load_diffusers(tmp_path / "images")


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    saved(MAKERS["DiTPipeline"], tmp_path)
    before = torch.random.get_rng_state()
    load_diffusers(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "diffusers.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    assert all(kind in page for kind in PIPELINES)
    saved(MAKERS["StableDiffusionPipeline"], tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("FOLDER_OR_NAME", str(tmp_path)), names)
    assert names["samples"].x.shape == (2, 3, 16, 16) and torch.isfinite(names["images"]).all()
    torch.testing.assert_close(names["images"], names["samples"].x, rtol=0.1, atol=0.1)


# -- on the command line ----------------------------------------------------------------------------------------------


def captioned(folder: Path, num: int) -> Path:
    folder.mkdir()
    x = torch.randint(0, 256, (num, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, image in enumerate(x.numpy()):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    rows = [json.dumps({"file_name": f"{i:03d}.png", "text": PROMPTS[i % 2]}) for i in range(num)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return folder


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What a command answers as JSON."""
    capsys.readouterr()
    assert run_app([*map(str, arguments), "--device", "cpu", "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.mark.long
def test_a_pipeline_of_text_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(stable_diffusion, tmp_path / "text")
    sample = ["sample", "--ckpt", "hf:text", "--steps", 2]
    assert asked(capsys, *sample, "--prompt", PROMPTS[0], "--output", "one.png")["num"] == 1
    assert asked(capsys, *sample, "--output", "some.npz")["num"] == 4, "few where nothing is said"
    evaluate = ["evaluate", "--ckpt", "hf:text", "--steps", 2, "--num", 120]
    found = asked(capsys, *evaluate, "--data", captioned(tmp_path / "pictures", 240), "--reference", "train")
    assert found["frechet"] > 0 and len(found["times"]) == 3 and Path(found["file"]).is_file()
    assert run_app([*map(str, evaluate), "--data", "digits"]) == 2
    assert "has none to deal out" in capsys.readouterr().err


@pytest.mark.long
def test_pipelines_are_measured_and_compared_with_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(
        lambda: diffusers.DDIMPipeline(unet=unet(in_channels=1, out_channels=1), scheduler=ddim()), tmp_path / "plain"
    )
    saved(lambda: dit(num_classes=10), tmp_path / "classes")
    small = ["--set", "net.channels=[8,16]", "--set", "net.num_heads=2", "--set", "train.sample_every=0"]
    assert (
        run_app(["train", "--max-steps", "2", "--save-dir", "run", "--device", "cpu", "--batch-size", "4", *small]) == 0
    )
    few = ["--steps", 2, "--num", 200]
    for name in ("plain", "classes"):
        assert asked(capsys, "evaluate", "--ckpt", f"hf:{name}", "--data", "digits", *few)["frechet"] > 0
    for models in (["hf:plain", "run"], ["run", "hf:plain"]):
        found = asked(capsys, "compare", *models, "--samplers", "ddim", "--guidance", "1,2", *few)
        assert {(cell["run"], cell["guidance"]) for cell in found["cells"]} == {("plain", 1), ("run", 1), ("run", 2)}


def test_more_steps_than_a_table_holds_are_refused() -> None:
    """The scheduler's own error came out as a bug of ebbflow."""
    with pytest.raises(ValueError, match=r"DDIMScheduler has no grid of 1001 steps inside its table of 1000\. Use"):
        TableTimes(scheduler=ddim(**LATENT))(PATHS["vp_discrete"](), 1001)
