"""Pipelines as diffusers writes them, whose sampling paths are on record in tests/golden/pipelines.npz."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from published_weights import published_array, uniform
from tiny_clip_vocabulary import MERGES, VOCABULARY

from vision.pretrained.state_dict import write_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pipelines.npz")
PROMPTS, NEGATIVE, SIDE = ("a red star", "cat"), "the cat", 16
_WEIGHTS = {"text_encoder": "model.safetensors"}


def values(name, *shape):
    """Numbers of about unit variance by name."""
    return jnp.asarray((2.0 * uniform(name, shape)).astype(np.float32))


def written(folder, case):
    """The folder of a case, with the weights of the formula and the small vocabulary."""
    for name, text in json.loads(str(GOLDEN[f"{case}_files"])).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for part, shapes in json.loads(str(GOLDEN[f"{case}_shapes"])).items():
        arrays = {name: published_array(name, tuple(shape)) for name, shape in shapes.items()}
        write_state_dict(folder / part / _WEIGHTS.get(part, "diffusion_pytorch_model.safetensors"), arrays)
    if (folder / "tokenizer").is_dir():
        (folder / "tokenizer" / "vocab.json").write_text(json.dumps(VOCABULARY))
        (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return folder
