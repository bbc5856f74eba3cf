"""Trains a small CLIP for a few steps; as a program, as one of several processes.

Arguments: address of the coordinator, number of processes, place of this one, folder for the losses.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vision.models.clip.clip import SHARDING_RULES, Clip, TransformerClipConfig, limited_scale
from vision.models.clip.text import TextConfig
from vision.models.clip.vit import ImageTransformerConfig
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.processes import ProcessOptions, start
from vision.tasks.contrastive import contrastive_loss
from vision.train.compile import Compiler
from vision.train.state import network_state, variables
from vision.train.step import averaged, gradient, projected

STEPS, SIZE, SIDE = 3, 16, 16
SOFTMAX = TransformerClipConfig(
    image=ImageTransformerConfig(patch=8, width=16, depth=1, heads=2),
    text=TextConfig(vocabulary=12, length=6, end=1, width=16, depth=1, heads=2),
    embedding=8,
)
CONFIGS = {"softmax": SOFTMAX, "sigmoid": replace(SOFTMAX, logits="sigmoid")}


def trained(config, mesh):
    """(state, losses) after a few steps on the same batches, of which this process has its share."""
    model, compiler, optimizer = Clip(config), Compiler(mesh, SHARDING_RULES), optax.sgd(0.05, momentum=0.9)

    def init(key):
        tokens = jnp.zeros((1, config.text.length), jnp.int32)
        made = model.init(key, jnp.zeros((1, SIDE, SIDE, 3)), tokens, train=False)
        return network_state(made, optimizer=optimizer, key=key, averages=("ema",))

    step = projected(gradient(contrastive_loss(model), optimizer), limited_scale)
    step = compiler.step(averaged(step, {"ema": 0.9}, of=variables), init)
    state, losses = compiler.init(init, key=jax.random.key(0)), []
    local = SIZE // jax.process_count()
    share = slice(jax.process_index() * local, (jax.process_index() + 1) * local)
    for index in range(STEPS):
        rng = np.random.default_rng(index)
        image = rng.normal(size=(SIZE, SIDE, SIDE, 3)).astype(np.float32)
        tokens = np.concatenate([rng.integers(2, 12, (SIZE, 5)), np.ones((SIZE, 1))], axis=1).astype(np.int32)
        state, scalars = step(state, compiler.shard({"image": image[share], "tokens": tokens[share]}))
        losses.append(jax.device_get(dict(scalars)))
    assert step.traces == 1
    return state, losses


if __name__ == "__main__":
    address, count, index, place = sys.argv[1:]
    start(ProcessOptions(coordinator=address, count=int(count), index=int(index)), os.environ)
    _, found = trained(SOFTMAX, make_mesh(MeshConfig()))
    rows = [{name: float(value) for name, value in each.items()} for each in found]
    (Path(place) / f"{index}.json").write_text(json.dumps(rows))
