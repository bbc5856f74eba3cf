"""Make prior.npz with PyTorch and diffusers, in an environment of its own; no test needs either.

    pip install torch diffusers
    python tests/golden/make_prior_golden.py

Predictions in float64 of narrow PriorTransformers, with the weights that a formula gives by name
(tests/pretrained/published_weights.py); every step of a guided path of UnCLIPScheduler, whose noise is a formula too;
and the names and shapes of the arrays of the default size, made without its weights.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from diffusers.schedulers import scheduling_unclip

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
from published_weights import published_array, uniform  # noqa: E402

SMALL = {
    **{"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 12, "num_embeddings": 5},
}
NORMED = {
    **{"norm_in_type": "layer", "embedding_proj_norm_type": "layer", "added_emb_type": None},
    **{"additional_embeddings": 3, "time_embed_dim": 24, "time_embed_act_fn": "gelu", "embedding_proj_dim": 10},
}
CASES = {"plain": SMALL, "normed": {**SMALL, **NORMED}}
SCHEDULER = {
    **{"num_train_timesteps": 100, "prediction_type": "sample", "variance_type": "fixed_small_log"},
    **{"clip_sample": True, "clip_sample_range": 0.75},
}
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
GUIDANCE, STEPS = 3.0, 6


def given(name, *shape):
    return torch.from_numpy(2.0 * uniform(name, shape))


def filled(config):
    model = PriorTransformer(**config)
    state = {name: torch.from_numpy(published_array(name, tuple(x.shape))) for name, x in model.state_dict().items()}
    model.load_state_dict(state, strict=True)
    return model.double().eval()


def names(model):
    return np.array(json.dumps({name: list(x.shape) for name, x in model.state_dict().items()}))


def text(model, which):
    states, embedding = model.config.embedding_dim, model.config.embedding_proj_dim or model.config.embedding_dim
    return given(f"{which} embedding", 2, embedding), given(f"{which} states", 2, 5, states)


def predicted(model, noisy, time, embedding, states, mask):
    made = model(
        noisy, time, proj_embedding=embedding, encoder_hidden_states=states, attention_mask=torch.from_numpy(mask)
    )
    return made.predicted_image_embedding.reshape(2, -1)


arrays = {}
with torch.no_grad():
    for case, config in CASES.items():
        model = filled(config)
        arrays[f"{case}_config"] = np.array(json.dumps({"_class_name": "PriorTransformer", **dict(model.config)}))
        arrays[f"{case}_names"] = names(model)
        time = torch.tensor([3, 700])
        arrays[f"{case}_out"] = predicted(model, given("noisy", 2, 12), time, *text(model, "text"), MASK).numpy()
    model, scheduler = filled(SMALL), UnCLIPScheduler(**SCHEDULER)
    scheduler.set_timesteps(STEPS)
    arrays["scheduler"] = np.array(json.dumps({"_class_name": "UnCLIPScheduler", **dict(scheduler.config)}))
    arrays["times"] = scheduler.timesteps.numpy()
    point, path = given("start", 2, 12), []
    for number, time in enumerate(scheduler.timesteps):
        scheduling_unclip.randn_tensor = lambda shape, number=number, **_: given(f"noise {number}", *shape)
        with_text = predicted(model, point, time, *text(model, "text"), MASK)
        without = predicted(model, point, time, *text(model, "empty"), np.ones_like(MASK))
        guided = without + GUIDANCE * (with_text - without)
        after = scheduler.timesteps[number + 1] if number + 1 < STEPS else None
        point = scheduler.step(guided, timestep=time, sample=point, prev_timestep=after).prev_sample
        path.append(point.numpy())
    arrays["path"] = np.stack(path)
    arrays["embedding"] = model.post_process_latents(point).numpy()
with torch.device("meta"):
    whole = PriorTransformer()
    arrays["published_names"] = names(whole)
    arrays["published_config"] = np.array(json.dumps({"_class_name": "PriorTransformer", **dict(whole.config)}))
for key, value in arrays.items():
    if value.dtype.kind == "f":
        arrays[key] = value.astype(np.float32)
        print(key, value.shape, np.abs(value).max(), value.std())
np.savez_compressed(HERE / "prior.npz", **arrays)
print((HERE / "prior.npz").stat().st_size, arrays["times"])
