"""Make pipelines.npz with diffusers and transformers, in an environment of its own; no test needs PyTorch.

    pip install torch diffusers transformers
    python tests/golden/make_pipelines_golden.py

Whole sampling paths in float64 of small pipelines, with the weights that a formula gives by name
(tests/pretrained/published_weights.py): StableDiffusionPipeline under guidance and a negative prompt,
StableDiffusionInstructPix2PixPipeline with its two scales, StableDiffusionInpaintPipeline, each from given noise to
latents and to the image; Karlo's decoder with a learned variance and its super-resolution, with given noise in every
step. Also the JSON files of each folder, and the names and shapes of the arrays as they are in its files.
"""
# ruff: noqa: E402 - the formula of weights is not in a package

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers import scheduling_unclip
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array, uniform
from tiny_clip_vocabulary import MERGES, VOCABULARY

PROMPTS, NEGATIVE, LENGTH, SIDE = ["a red star", "cat"], "the cat", 8, 16
UNET = {
    **{"sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 32, "block_out_channels": (16, 32)},
    **{
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    **{"layers_per_block": 1, "attention_head_dim": 2},
}
VAE = {
    **{"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4},
    **{"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
    "scaling_factor": 0.5,
}
TEXT = {
    **{"vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "max_position_embeddings": LENGTH, "eos_token_id": VOCABULARY["<|endoftext|>"]},
    **{"bos_token_id": VOCABULARY["<|startoftext|>"], "hidden_act": "quick_gelu"},
}
SCHEDULE = {
    **{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False},
    **{"timestep_spacing": "trailing", "set_alpha_to_one": True},
}
KARLO = {
    **{"sample_size": 8, "norm_num_groups": 4, "cross_attention_dim": 12, "block_out_channels": (16, 32)},
    **{"down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), "layers_per_block": 1},
    **{"up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), "in_channels": 3, "out_channels": 6},
    **{"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift"},
    **{"class_embed_type": "identity", "attention_head_dim": 8},
}
SUPER_RESOLUTION = {
    **{"sample_size": 16, "norm_num_groups": 4, "block_out_channels": (16, 32), "layers_per_block": 1},
    **{"down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2},
    **{"in_channels": 6, "out_channels": 3, "add_attention": False},
}
PROJECTION = {
    "clip_extra_context_tokens": 2,
    "clip_embeddings_dim": 32,
    "time_embed_dim": 64,
    "cross_attention_dim": 12,
}
arrays = {}


def values(name, *shape):
    """Numbers of about unit variance by name, in float64 from float32."""
    return torch.from_numpy((2.0 * uniform(name, shape)).astype(np.float32)).double()


def rows(x):
    """[b c h w] to float32 [b h w c]."""
    return x.permute(0, 2, 3, 1).numpy().astype(np.float32)


def refilled(folder):
    """Put the weights of the formula into the file of a folder; returns names and shapes."""
    (file,) = folder.glob("*.safetensors")
    with safe_open(file, "np") as opened:
        shapes = {name: list(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    made = {name: torch.from_numpy(np.asarray(published_array(name, tuple(shape)))) for name, shape in shapes.items()}
    save_file(made, file, metadata={"format": "pt"})
    return shapes


def pipeline(case, kind, channels):
    """The pipeline of a case with the weights of the formula, in float64."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "pipeline"
        (Path(made) / "vocab.json").write_text(json.dumps(VOCABULARY))
        (Path(made) / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
        tokenizer = CLIPTokenizer.from_pretrained(made, model_max_length=LENGTH)
        parts = {
            "unet": UNet2DConditionModel(**UNET, in_channels=channels),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
        }
        others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        kind(**parts, tokenizer=tokenizer, scheduler=DDIMScheduler(**SCHEDULE), **others).save_pretrained(folder)
        shapes = {name: refilled(folder / name) for name in parts}
        files = [path for path in sorted(folder.rglob("*.json")) if path.name != "tokenizer.json"]
        texts = {str(path.relative_to(folder)): path.read_text() for path in files}
        arrays[f"{case}_shapes"], arrays[f"{case}_files"] = (np.array(json.dumps(each)) for each in (shapes, texts))
        loaded = kind.from_pretrained(folder, torch_dtype=torch.float64)
    loaded.set_progress_bar_config(disable=True)
    arrays["tokens"] = np.array(loaded.tokenizer([*PROMPTS, NEGATIVE], padding="max_length")["input_ids"])
    return loaded


def recorded(case, loaded, **of):
    """Latents and image of a path of eight steps, a divisor of 1,000: diffusers steps by whole numbers otherwise."""
    start = values(f"{case}_start", 2, 4, 8, 8)
    made = loaded(
        PROMPTS,
        negative_prompt=[NEGATIVE] * 2,
        **{"num_inference_steps": 8, "latents": start, "output_type": "latent", "guidance_scale": 7.5},
        **of,
    ).images
    arrays[f"{case}_latents"] = rows(made)
    arrays[f"{case}_image"] = rows(loaded.vae.decode(made / loaded.vae.config.scaling_factor).sample)


def karlo():
    """Decoder and super-resolution, without the prior."""
    with tempfile.TemporaryDirectory() as made:
        folder, shapes, texts, found = Path(made), {}, {}, {}
        for name, model in (
            ("text_encoder", CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, projection_dim=32))),
            ("text_proj", UnCLIPTextProjModel(**PROJECTION)),
            ("decoder", UNet2DConditionModel(**KARLO)),
            ("super_res_first", UNet2DModel(**SUPER_RESOLUTION)),
            ("super_res_last", UNet2DModel(**SUPER_RESOLUTION)),
        ):
            model.save_pretrained(folder / name)
            shapes[name] = refilled(folder / name)
            texts[f"{name}/config.json"] = (folder / name / "config.json").read_text()
            found[name] = type(model).from_pretrained(folder / name).double().eval()
    arrays["karlo_shapes"], arrays["karlo_files"] = (np.array(json.dumps(each)) for each in (shapes, texts))
    found["decoder"].set_default_attn_processor()
    tokens = torch.from_numpy(arrays["tokens"])
    seen = torch.cumsum(tokens == VOCABULARY["<|endoftext|>"], 1)
    mask = (seen == 0) | ((tokens == VOCABULARY["<|endoftext|>"]) & (seen == 1))
    text = found["text_encoder"](tokens)
    order = [2, 2, 0, 1]
    context, embedding = found["text_proj"](
        image_embeddings=values("embedding", 2, 32),
        prompt_embeds=text.text_embeds[order],
        text_encoder_hidden_states=text.last_hidden_state[order],
        do_classifier_free_guidance=True,
    )
    mask = torch.nn.functional.pad(mask[order], (2, 0), value=True)

    def walk(case, steps, variance, start, network):
        scheduler = scheduling_unclip.UnCLIPScheduler(variance_type=variance)
        scheduler.betas = torch.tensor(
            [min(1 - _bar((i + 1) / 1000) / _bar(i / 1000), 0.999) for i in range(1000)]
        ).double()
        scheduler.alphas = 1.0 - scheduler.betas
        scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, 0)
        scheduler.set_timesteps(steps)
        noise = iter(values(f"{case}_noise_{number}", *start.shape) for number in range(steps))
        scheduling_unclip.randn_tensor = lambda *_, **__: next(noise)
        sample, times = start, scheduler.timesteps
        for number, time in enumerate(times):
            before = None if number + 1 == len(times) else times[number + 1]
            sample = scheduler.step(network(sample, time), time, sample, prev_timestep=before).prev_sample
        return sample

    def decoder(sample, time):
        of = {"encoder_hidden_states": context, "class_labels": embedding, "attention_mask": mask}
        none, guided = found["decoder"](torch.cat([sample] * 2), time, **of).sample.chunk(2)
        target = none[:, :3] + 8.0 * (guided[:, :3] - none[:, :3])
        return torch.cat([target, guided[:, 3:]], 1)

    small = walk("decoder", 5, "learned_range", values("decoder_start", 2, 3, 8, 8), decoder).clamp(-1, 1)
    arrays["karlo_small"] = rows(small)
    large = torch.nn.functional.interpolate(small, size=[16, 16], mode="bicubic", align_corners=False, antialias=True)

    def super_resolution(sample, time):
        network = found["super_res_last" if time == 0 else "super_res_first"]
        return network(torch.cat([sample, large], 1), time).sample

    start = values("super_start", 2, 3, 16, 16)
    arrays["karlo_large"] = rows(walk("super", 4, "fixed_small_log", start, super_resolution))


def _bar(t):
    return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2


with torch.no_grad():
    recorded("text", pipeline("text", StableDiffusionPipeline, 4), height=SIDE, width=SIDE)
    edit = pipeline("edit", StableDiffusionInstructPix2PixPipeline, 8)
    levels = np.clip(np.round(63.0 * values("image", 2, SIDE, SIDE, 3).numpy() + 127.5), 0, 255)  # of bytes
    image = torch.from_numpy(levels / 127.5 - 1.0).permute(0, 3, 1, 2)
    recorded("edit", edit, image=image, image_guidance_scale=1.5)
    inpaint = pipeline("inpaint", StableDiffusionInpaintPipeline, 9)
    mask = torch.zeros(2, 1, SIDE, SIDE).double()
    mask[0, :, 4:12, 2:8], mask[1, :, 8:, 6:] = 1.0, 1.0
    known = inpaint.vae.encode(image * (mask < 0.5)).latent_dist.mode() * inpaint.vae.config.scaling_factor
    of = {"height": SIDE, "width": SIDE, "strength": 1.0}
    recorded("inpaint", inpaint, image=image, mask_image=mask, masked_image_latents=known, **of)
    karlo()
for name, array in arrays.items():
    print(name, array.shape, np.abs(array).max() if array.dtype.kind == "f" else str(array)[:80])
np.savez_compressed(HERE / "pipelines.npz", **arrays)
print((HERE / "pipelines.npz").stat().st_size)
