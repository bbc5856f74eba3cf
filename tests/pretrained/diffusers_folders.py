"""Folders as diffusers writes them, of networks whose predictions are on record in tests/golden/diffusers.npz."""

import json
from pathlib import Path

import numpy as np
from published_weights import published_array, uniform

from vision.pretrained.state_dict import write_state_dict

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "diffusers.npz")


def config_of(case):
    """The entries of config.json."""
    return json.loads(str(GOLDEN[f"{case}_config"]))


def shapes_of(case):
    """Published name -> shape."""
    return {name: tuple(shape) for name, shape in json.loads(str(GOLDEN[f"{case}_names"])).items()}


def arrays_of(case):
    """The arrays with which the predictions were made."""
    return {name: published_array(name, shape) for name, shape in shapes_of(case).items()}


def image_of(side, channels):
    """The two images of the predictions."""
    return (2.0 * uniform("image", (2, side, side, channels))).astype(np.float32)


def written(folder, config, tensors, *, name="diffusion_pytorch_model.safetensors"):
    """The folder, with one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_state_dict(folder / name, tensors)
    return folder


def sharded(folder, config, tensors, *, count=2, index="diffusion_pytorch_model.safetensors.index.json"):
    """The folder, with its weights in several files and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    places = {}
    for shard in range(count):
        names = sorted(tensors)[shard::count]
        file = f"diffusion_pytorch_model-{shard + 1:05d}-of-{count:05d}.safetensors"
        write_state_dict(folder / file, {each: tensors[each] for each in names})
        places |= dict.fromkeys(names, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
