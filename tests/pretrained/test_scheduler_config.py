"""Processes of published networks: their files there and back, what does not fit, hostile files."""

import json

import numpy as np
import pytest

from vision.errors import UserError
from vision.pretrained.scheduler_config import (
    FILE,
    PublishedProcess,
    differing_fields,
    find_scheduler_config,
    read_scheduler_config,
    scheduler_config,
)
from vision.tasks.diffusion import DiffusionConfig, make_process

# as published with google/ddpm-cifar10-32, stable-diffusion-v1-5, DiT-XL-2-256, stable-diffusion-3 and EDM networks
PUBLISHED = {
    "ddpm": (
        {
            "_class_name": "DDPMScheduler",
            "_diffusers_version": "0.1.1",
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "clip_sample": True,
            "num_train_timesteps": 1000,
            "trained_betas": None,
            "variance_type": "fixed_large",
        },
        PublishedProcess(schedule="linear"),
    ),
    "latent": (
        {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
        },
        PublishedProcess(schedule="scaled_linear", prediction="v"),
    ),
    "cosine": (
        {
            "_class_name": "DPMSolverMultistepScheduler",
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "sample",
        },
        PublishedProcess(schedule="cosine", prediction="x0"),
    ),
    "flow": (
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0},
        PublishedProcess(schedule="flow", prediction="velocity"),
    ),
    "edm": (
        {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002},
        PublishedProcess(schedule="edm", prediction="edm"),
    ),
}


def write(folder, values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(values))
    return folder / FILE


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_name_a_process(name, tmp_path):
    values, expected = PUBLISHED[name]
    assert read_scheduler_config(write(tmp_path, values)) == expected
    fields = {"schedule": expected.schedule, "steps": expected.steps, "prediction": expected.prediction}
    assert len(make_process(DiffusionConfig(**fields)).times(5)) == 5


@pytest.mark.parametrize(
    "process",
    [
        *[process for _, process in PUBLISHED.values()],
        PublishedProcess(schedule="linear", steps=100, prediction="v", zero_terminal_snr=True),
        PublishedProcess(schedule="edm", prediction="edm", data_deviation=1.0),
    ],
)
def test_there_and_back(process, tmp_path):
    written = scheduler_config(process)
    assert written is not None
    assert read_scheduler_config(write(tmp_path, written)) == process


def test_what_diffusers_has_no_scheduler_for():
    assert scheduler_config(PublishedProcess(schedule="sigmoid")) is None
    assert scheduler_config(PublishedProcess(schedule="vp")) is None
    assert scheduler_config(PublishedProcess(schedule="flow", prediction="x0")) is None


def test_betas_of_the_file_are_those_of_the_schedule(tmp_path):
    """Our tables against the products of the betas that the file states."""
    for name in ("ddpm", "latent"):
        values, process = PUBLISHED[name]
        ends = np.array([values["beta_start"], values["beta_end"]])
        power = 0.5 if process.schedule == "scaled_linear" else 1.0
        betas = np.linspace(*ends**power, 1000) ** (1 / power)
        schedule = make_process(DiffusionConfig(schedule=process.schedule))
        np.testing.assert_allclose(schedule.signal, np.sqrt(np.cumprod(1 - betas)), rtol=1e-9)


def test_the_file_is_found_beside_the_network(tmp_path):
    assert find_scheduler_config(tmp_path / "unet") is None
    file = write(tmp_path / "scheduler", PUBLISHED["ddpm"][0])
    assert find_scheduler_config(tmp_path / "unet") == file
    own = write(tmp_path / "unet", PUBLISHED["flow"][0])
    assert find_scheduler_config(tmp_path / "unet") == own


def test_fields_that_differ():
    own = {"schedule": "linear", "steps": 1000, "zero_terminal_snr": False, "prediction": "epsilon"}
    own["data_deviation"] = 0.4
    assert differing_fields(PUBLISHED["ddpm"][1], own) == {}
    assert differing_fields(PUBLISHED["latent"][1], own) == {"schedule": "scaled_linear", "prediction": "v"}
    found = differing_fields(PUBLISHED["edm"][1], own)
    assert found == {"schedule": "edm", "prediction": "edm", "data_deviation": 0.5}
    assert "steps" not in differing_fields(PUBLISHED["flow"][1], {**own, "steps": 50})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "LCMScheduler"}, "is of 'LCMScheduler', whose process is not known here"),
        ({"_class_name": None}, "is of None, whose process"),
        ({"_class_name": ["DDPMScheduler"]}, "whose process is not known here"),
        ({"beta_end": 0.03}, "a network of other betas is not supported"),
        ({"beta_start": "0.0001"}, "a network of other betas is not supported"),
        ({"beta_schedule": "sigmoid"}, "has beta_schedule 'sigmoid', and only 'linear' or"),
        ({"prediction_type": "flow_prediction"}, "has prediction_type 'flow_prediction'"),
        ({"trained_betas": [0.1, 0.2]}, "has trained_betas"),
        ({"num_train_timesteps": 1e9}, "which is no number of steps"),
        ({"num_train_timesteps": True}, "which is no number of steps"),
        ({"rescale_betas_zero_snr": 1}, "has rescale_betas_zero_snr 1"),
    ],
)
def test_files_that_do_not_fit(change, message, tmp_path):
    file = write(tmp_path, {**PUBLISHED["ddpm"][0], **change})
    with pytest.raises(UserError, match=message):
        read_scheduler_config(file)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20) + b"{}", b"null"])
def test_hostile_files(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match="fetch it again"):
        read_scheduler_config(tmp_path / FILE)
    (tmp_path / FILE).write_text(json.dumps({"_class_name": "EDMEulerScheduler", "sigma_data": "half"}))
    with pytest.raises(UserError, match="has sigma_data 'half', which is no deviation"):
        read_scheduler_config(tmp_path / FILE)
