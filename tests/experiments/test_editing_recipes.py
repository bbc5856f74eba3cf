"""What the recipes of editing refuse, and what they make of their configuration."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments import edit_instructions, inpaint_photos, inpaint_shapes
from vision.errors import UserError
from vision.tasks.sampling import SamplingConfig

MODULES = {"instructions": edit_instructions, "words": inpaint_shapes, "photos": inpaint_photos}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"classes": 3}}, "model.classes follows from the recipe of edits"),
        ({"model": {"condition_channels": 3}}, "model.condition_channels follows"),
        ({"first_stage": {"path": Path("stage")}}, "leave first_stage.path out"),
        ({"sampling": {"guide": Path("run")}}, "sampling.guide is for runs of classes"),
    ],
)
def test_settings_that_follow_from_the_recipe_are_refused(name, changes, words):
    module = MODULES[name]
    ((field, values),) = changes.items()
    config = replace(module.TINY, **{field: replace(getattr(module.TINY, field), **values)})
    with pytest.raises(UserError, match=words):
        module.build(config)


@pytest.mark.parametrize("name", ["instructions", "words"])
def test_words_of_edits_say_left_and_right(name):
    with pytest.raises(UserError, match="a flip would make wrong"):
        MODULES[name].build(replace(MODULES[name].TINY, flip=True))


def test_guidance_needs_every_dropout():
    with pytest.raises(UserError, match="every dropout above 0"):
        edit_instructions.build(replace(edit_instructions.TINY, text_dropout=0.0))
    unguided = SamplingConfig(steps=2, guidance=1.0, text_guidance=1.0)
    edit_instructions.build(replace(edit_instructions.TINY, text_dropout=0.0, sampling=unguided))


def test_batches_have_what_the_loss_needs():
    of = {name: set(module.build(module.TINY).batch) for name, module in MODULES.items()}
    assert of["instructions"] == of["words"] == {"image", "before", "region", "tokens"}
    assert of["photos"] == {"image"}
    assert edit_instructions.build(edit_instructions.TINY).batch["tokens"].dtype == jnp.int32
