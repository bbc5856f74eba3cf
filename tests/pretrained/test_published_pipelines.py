"""Whole sampling paths of published pipelines, from noise to the image, and what folders may lack.

The golden arrays, pipelines.npz, are made by make_pipelines_golden.py with PyTorch.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipeline_folders import GOLDEN, NEGATIVE, PROMPTS, SIDE, values, written

from vision.data.captions.data import CaptionedConfig
from vision.diffusion.guidance import denoiser, guided
from vision.diffusion.samplers.ddim import ancestral
from vision.diffusion.samplers.plan import integrate
from vision.diffusion.schedules import make_schedule
from vision.errors import UserError
from vision.evaluation.generator import generate
from vision.models.unet import UNet
from vision.models.unet_condition.text_projection import TextProjection
from vision.models.unet_condition.unet import ConditionUNet
from vision.ops.resize import resize
from vision.pretrained.clip_text import CLASSES, describe_clip_text, read_clip_text, write_clip_text
from vision.pretrained.pipeline import describe_pipeline, write_pipeline
from vision.pretrained.rules import named
from vision.pretrained.scheduler_config import read_scheduler_config
from vision.pretrained.text_projection import read_text_projection
from vision.pretrained.unet2d import read_unet2d
from vision.pretrained.unet2d_condition import read_unet2d_condition
from vision.recipes.text_parts import PipelineConfig
from vision.recipes.text_to_image import TextToImageConfig, conditions, text_to_image
from vision.tasks.diffusion import make_process
from vision.tasks.sampling import SamplingConfig, make_plan, predictor, static_threshold
from vision.tasks.text_to_image import text_denoiser

CASES = ("text", "edit", "inpaint")
SAMPLING = SamplingConfig(method="ddim", grid="trailing", steps=6, guidance=7.5, threshold="none")


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    """(case, its folder)."""
    return request.param, written(tmp_path_factory.mktemp("pipelines") / request.param, request.param)
