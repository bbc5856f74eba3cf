"""Published pipelines from text to image: folders of diffusers' StableDiffusionPipeline and its like.

    pipeline = describe_pipeline("stable-diffusion-v1-5")        # reads model_index.json and configurations
    config, variables = read_unet2d_condition(pipeline.folder / "unet")
    write_pipeline("mine", pipeline, variables)                  # the same folder with another network

model_index.json names the class of each part, whose files are in a folder of its name. Read are the network ("unet"),
the autoencoder ("vae"), the text encoder, its tokenizer, and the scheduler's process. Other parts, such as a safety
checker, are not used, and are kept in what is written.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vision.errors import UserError, on_one_line
from vision.home import expanded
from vision.models.unet_condition.unet import ConditionUNetConfig
from vision.pretrained.autoencoder_kl import PublishedAutoencoder, describe_autoencoder_kl
from vision.pretrained.clip_text import PublishedText, describe_clip_text
from vision.pretrained.diffusers_folder import read_config
from vision.pretrained.scheduler_config import FILE, PublishedProcess, read_scheduler_config
from vision.pretrained.unet2d_condition import describe_unet2d_condition, write_unet2d_condition

INDEX = "model_index.json"
UNET, AUTOENCODER, TEXT, TOKENIZER, SCHEDULER = "unet", "vae", "text_encoder", "tokenizer", "scheduler"
Task = Literal["text", "edit", "inpaint"]
TASKS: Mapping[str, Task] = {
    "StableDiffusionPipeline": "text",
    "StableDiffusionInstructPix2PixPipeline": "edit",
    "StableDiffusionInpaintPipeline": "inpaint",
}
"""The classes of pipelines: images from a sentence, an image edited by an instruction, a part of an image made new."""
_CLASSES: Mapping[str, tuple[str, ...]] = {
    UNET: ("UNet2DConditionModel",),
    AUTOENCODER: ("AutoencoderKL",),
    TEXT: ("CLIPTextModel",),
    TOKENIZER: ("CLIPTokenizer", "CLIPTokenizerFast"),
}
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that change no image that a prompt alone asks for."""
_MOST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PublishedPipeline:
    """The description of a pipeline."""

    folder: Path
    task: Task
    network: ConditionUNetConfig
    autoencoder: PublishedAutoencoder
    text: PublishedText
    process: PublishedProcess
    side: int | None
    """Height and width of latents that it generates where it is asked for no other; None where it does not say."""

    def part(self, name: str) -> Path:
        """The folder of a part."""
        return self.folder / name


def describe_pipeline(folder: str | Path) -> PublishedPipeline:
    """What the configurations in a folder say; reads no weights.

    Raises ``UserError`` where a file is missing or damaged, a part is of another class, or parts do not fit each other.
    """
    folder = expanded(Path(folder))
    index = _index(folder)
    kind = index["_class_name"]
    for name, classes in _CLASSES.items():
        stated = _class_of(index, name, folder)
        if stated not in classes:
            raise UserError(
                f"{folder / INDEX} has a {name} of {on_one_line(repr(stated), 60)}, and only {' or '.join(classes)} is "
                "supported: use another pipeline"
            )
        if not (folder / name).is_dir():
            raise UserError(f"{folder} has no folder {name}, which its {INDEX} names: fetch it too")
    scheduler = folder / SCHEDULER / FILE
    if not scheduler.is_file():
        raise UserError(f"there is no {scheduler}, which says what the network was trained for: fetch it too")
    side = read_config(folder / UNET).get("sample_size")
    found = PublishedPipeline(
        folder=folder,
        task=TASKS[kind],
        network=describe_unet2d_condition(folder / UNET),
        autoencoder=describe_autoencoder_kl(folder / AUTOENCODER),
        text=describe_clip_text(folder / TEXT),
        process=read_scheduler_config(scheduler),
        side=side if type(side) is int else None,
    )
    _check(found, kind)
    return found


def write_pipeline(folder: str | Path, pipeline: PublishedPipeline, variables: Mapping[str, Any]) -> None:
    """Write a pipeline that diffusers reads, with ``variables`` of its network and all other parts as they were.

    The folder appears at once or not at all.

    Raises:
      UserError: there is something at ``folder``, or the pipeline is no longer where it was.
    """
    path = expanded(Path(folder))
    if path.exists():
        raise UserError(f"{path} exists already: name a new folder")
    index = _index(pipeline.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as made:
        whole = Path(made) / path.name
        whole.mkdir()
        for name in index:
            if not name.startswith("_") and name != UNET and (pipeline.folder / name).is_dir():
                shutil.copytree(pipeline.folder / name, whole / name)
        shutil.copyfile(pipeline.folder / INDEX, whole / INDEX)
        write_unet2d_condition(whole / UNET, pipeline.network, variables, side=pipeline.side)
        whole.rename(path)


def _index(folder: Path) -> dict[str, Any]:
    """The entries of model_index.json, whose names are plain."""
    file = folder / INDEX
    if not file.is_file():
        raise UserError(f"there is no {file}, which says of what a pipeline consists: name the folder of a pipeline")
    if file.stat().st_size > _MOST:
        raise UserError(f"{file} was not read: it has more than {_MOST:,} bytes; fetch it again")
    try:
        index = json.loads(file.read_bytes())
    # deep nesting is a RecursionError
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({on_one_line(str(error))}): fetch it again") from error
    if not isinstance(index, dict):
        raise UserError(f"{file} holds no table of entries: fetch it again")
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in TASKS:
        raise UserError(
            f"{file} is of {on_one_line(repr(kind), 60)}, and only {', '.join(TASKS)} are supported: use one of them"
        )
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list):  # settings, such as requires_safety_checker
            continue
        if not re.fullmatch(r"[A-Za-z0-9_]{1,64}", name):
            raise UserError(f"{file} names the part {on_one_line(repr(name), 60)}, which is no name: fetch it again")
        if name not in (*_CLASSES, *_UNUSED, SCHEDULER) and value != [None, None]:
            raise UserError(
                f"{file} has the part {name}, which is not known here and may change images: use another pipeline"
            )
    return index


def _class_of(index: Mapping[str, Any], name: str, folder: Path) -> Any:
    value = index.get(name)
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{folder / INDEX} names no class of the part {name}: fetch it again")
    return value[1]


def _check(pipeline: PublishedPipeline, kind: str) -> None:
    """Raise ``UserError`` where the parts do not fit each other."""
    network, latent, folder = pipeline.network, pipeline.autoencoder.config.latent, pipeline.folder
    beside = {"text": 0, "edit": latent, "inpaint": latent + 1}[pipeline.task]
    if network.channels != latent or network.condition_channels != beside:
        raise UserError(
            f"the unet of {folder} takes {network.channels + network.condition_channels} channels and gives "
            f"{network.channels}, where a {kind} with latents of {latent} channels has {latent + beside} and {latent}: "
            "fetch both again"
        )
    if network.context != pipeline.text.config.width:
        raise UserError(
            f"the unet of {folder} is for texts of {network.context} channels and the text encoder makes "
            f"{pipeline.text.config.width}: fetch both again"
        )
    if network.embedding != "none" or network.out_channels is not None:
        raise UserError(
            f"the unet of {folder} needs a further condition or predicts a variance, which a {kind} has not: use "
            "another pipeline"
        )
