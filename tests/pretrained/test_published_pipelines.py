"""Whole sampling paths of published pipelines, from noise to the image, and what folders may lack.

The golden arrays, pipelines.npz, are made by make_pipelines_golden.py with PyTorch.
"""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pipeline_folders import GOLDEN, NEGATIVE, PROMPTS, SIDE, values, written

from vision.data.captions.data import CaptionedConfig
from vision.errors import UserError
from vision.models.unet_condition.unet import ConditionUNet
from vision.ops.pixels import to_uint8
from vision.pretrained.clip_text import read_clip_text, write_clip_text
from vision.pretrained.diffusers_folder import read_folder, write_folder
from vision.pretrained.pipeline import describe_pipeline
from vision.pretrained.unet2d_condition import read_unet2d_condition
from vision.recipes.karlo import read_karlo
from vision.recipes.pipeline_parts import PipelineConfig
from vision.recipes.text_pipeline import TextPipelineConfig, conditions, data_of, parts_of, space_of, text_pipeline
from vision.tasks.diffusion import make_process
from vision.tasks.sampling import SamplingConfig
from vision.tasks.text_sampling import text_sampler
from vision.train.compile import Compiler
from vision.train.state import attach_frozen
from vision.types import SampleRequest

CASES = ("text", "edit", "inpaint")
SAMPLING = SamplingConfig(method="ddim", grid="trailing", steps=8, guidance=7.5, threshold="none")


@pytest.fixture(scope="module", params=CASES)
def folder(request, tmp_path_factory):
    """(case, its folder)."""
    return request.param, written(tmp_path_factory.mktemp("pipelines") / request.param, request.param)


def config_of(folder, **changes):
    """A run of the pipeline on images of the shapes world at its size."""
    of = {"pipeline": PipelineConfig(folder), "data": CaptionedConfig(resolution=SIDE), "sampling": SAMPLING}
    return TextPipelineConfig(**{**of, "negative_prompt": NEGATIVE, "batch_size": 2, "evaluation_batch": 2, **changes})


def state_of(experiment):
    """At step 0, with its frozen networks."""
    state = jax.jit(experiment.init)(jax.random.key(0), experiment.initial_values())
    return attach_frozen(state, {name: part.load() for name, part in experiment.frozen.items()})


def request_of(case):
    """What the golden images were asked for, as ``python -m vision sample`` asks."""
    levels = 63.0 * np.asarray(values("image", 2, SIDE, SIDE, 3), np.float64) + 127.5
    image = np.clip(np.round(levels), 0, 255).astype(np.uint8)
    mask = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    mask[0, 4:12, 2:8], mask[1, 8:, 6:] = 255, 255
    of = {"images": tuple(image)} if case != "text" else {}
    of |= {"masks": tuple(mask)} if case == "inpaint" else {}
    return SampleRequest(count=2, prompts=PROMPTS, **of)


def test_sampling_paths_of_diffusers(folder, monkeypatch):
    """The same noise leads to the same latents and to the same image, through the text encoder, under guidance."""
    case, path = folder
    start = jnp.transpose(values(f"{case}_start", 2, 4, 8, 8), (0, 2, 3, 1))
    monkeypatch.setattr("vision.tasks.text_sampling.start_noise", lambda *_, **__: start)
    pipeline = describe_pipeline(path)
    assert pipeline.task == case
    parts = parts_of(config_of(path))
    space = space_of(parts, data_of(config_of(path), parts))
    _, variables = read_unet2d_condition(pipeline.part("unet"))
    frozen = {"text_encoder": read_clip_text(pipeline.part("text_encoder")).variables, "first_stage": None}
    frozen["first_stage"] = space.stage.frozen.load()
    scale = {name: jnp.asarray(getattr(pipeline.autoencoder, name), jnp.float32) for name in ("mean", "deviation")}
    held = {**variables, "frozen": frozen, "latents": scale}
    tokens = parts.tokenizer().encode([*PROMPTS, NEGATIVE])
    np.testing.assert_array_equal(tokens, GOLDEN["tokens"])
    given = {"tokens": jnp.asarray(tokens[:2]), "null": jnp.asarray(tokens[[2, 2]])}
    request = request_of(case)
    if request.images:
        given["image"] = jnp.asarray(np.stack(request.images))
    if request.masks:
        given["mask"] = jnp.asarray(np.stack(request.masks))
    sampled = text_sampler(
        ConditionUNet(parts.model),
        parts.diffusion,
        make_process(parts.diffusion),
        SAMPLING,
        shape=space.shape,
        image_guidance=1.5 if case == "edit" else None,
    )

    @jax.jit
    def walk(held, given):
        texts, nulls = conditions(held, given, parts, space)
        latent = sampled({"params": held["params"]}, texts, nulls, jnp.arange(2), jax.random.key(0))
        return latent, space.decode(held, latent)

    latent, image = walk(held, given)
    # latents of random networks under guidance are as large as 70 before they are divided by the factor 0.5
    np.testing.assert_allclose(latent, GOLDEN[f"{case}_latents"], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(image, GOLDEN[f"{case}_image"], atol=1e-4)


def test_a_pipeline_is_sampled_from_and_written_again(folder, one_device, monkeypatch, tmp_path):
    """As an experiment at step 0: images of bytes from a request; what is written is the same pipeline."""
    case, path = folder
    start = jnp.transpose(values(f"{case}_start", 2, 4, 8, 8), (0, 2, 3, 1))
    monkeypatch.setattr("vision.tasks.text_sampling.start_noise", lambda *_, **__: start)
    experiment = text_pipeline(config_of(path))
    state = state_of(experiment)
    samples = experiment.sampling(Compiler(one_device))(state, request_of(case))
    assert samples.captions == PROMPTS
    expected = np.asarray(to_uint8(jnp.asarray(GOLDEN[f"{case}_image"])), np.int32)
    assert np.abs(samples.images - expected).max() <= 1

    experiment.write_pipeline(state, tmp_path / "written")
    again = describe_pipeline(tmp_path / "written")
    before = describe_pipeline(path)
    for field in ("task", "network", "text", "process", "side"):
        assert getattr(again, field) == getattr(before, field), field
    _, before = read_unet2d_condition(path / "unet")
    _, after = read_unet2d_condition(tmp_path / "written" / "unet")
    jax.tree.map(np.testing.assert_array_equal, after, before)
    kept = lambda root: sorted(str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
    assert kept(tmp_path / "written") == kept(path)
    with pytest.raises(UserError, match="exists already: name a new folder"):
        experiment.write_pipeline(state, tmp_path / "written")


def test_requests_that_lack_something(folder, one_device):
    case, path = folder
    experiment = text_pipeline(config_of(path))
    state = jax.eval_shape(experiment.init, jax.random.key(0))
    sample = functools.partial(experiment.sampling(Compiler(one_device)), state)
    with pytest.raises(UserError, match="this generator needs --prompt"):
        sample(SampleRequest(count=1))
    if case == "text":
        with pytest.raises(UserError, match="no condition for --image: it takes --prompt"):
            sample(request_of("edit"))
    else:
        with pytest.raises(UserError, match="say with --image what to generate"):
            sample(SampleRequest(count=1, prompts=("cat",)))
        with pytest.raises(UserError, match="captioned data has no images before and after: sample from it"):
            next(experiment.batches(seed=0, start_step=0, process_index=0, process_count=1))
        with pytest.raises(UserError, match="captioned data has no images before and after: sample from it"):
            experiment.evaluation(Compiler(one_device))


def karlo_folder(folder):
    """The parts of Karlo after its prior, with their schedulers."""
    written(folder, "karlo")
    for name in ("decoder_scheduler", "super_res_scheduler"):
        (folder / name).mkdir()
        entries = {"_class_name": "UnCLIPScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"}
        (folder / name / "scheduler_config.json").write_text(json.dumps(entries))
    return folder


def test_the_path_of_karlo(tmp_path, monkeypatch):
    """The decoder with a learned variance, then super-resolution whose last step has a network of its own."""
    karlo, key = read_karlo(karlo_folder(tmp_path / "karlo")), jax.random.key(0)
    assert karlo.sides == (8, 16)
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.split(key)[1], number))(jnp.arange(5))
    rows = lambda name, *shape: jnp.transpose(values(name, *shape), (0, 2, 3, 1))

    def with_noise(case, steps, side):
        noise = jnp.stack([rows(f"{case}_noise_{number}", 2, 3, side, side) for number in range(steps)])
        place = lambda key: jnp.argmax((jax.random.key_data(keys) == jax.random.key_data(key)).all(-1))
        monkeypatch.setattr("vision.diffusion.samplers.plan.normal_rows", lambda key, *_: noise[place(key)])
        start = rows(f"{case}_start", 2, 3, side, side)
        monkeypatch.setattr("vision.recipes.karlo.start_noise", lambda *_, **__: start)

    of = {"index": jnp.arange(2), "key": key}
    with_noise("decoder", 5, 8)

    @jax.jit
    def decode(variables, image, tokens):
        text, none = karlo.encode(variables, tokens[:2]), karlo.encode(variables, tokens[jnp.asarray([2, 2])])
        return karlo.decode(variables, image, text, none, steps=5, guidance=8.0, **of)

    small = decode(karlo.variables, values("embedding", 2, 32), jnp.asarray(GOLDEN["tokens"]))
    np.testing.assert_allclose(small, GOLDEN["karlo_small"], atol=1e-4)
    assert np.mean(np.abs(GOLDEN["karlo_small"]) < 0.999) > 0.2  # not all at the ends of the range
    with_noise("super", 4, 16)
    large = jax.jit(lambda variables, small: karlo.enlarge(variables, small, steps=4, **of))(karlo.variables, small)
    np.testing.assert_allclose(large, GOLDEN["karlo_large"], atol=1e-4)


def test_folders_of_karlo_that_lack_something(tmp_path):
    whole = karlo_folder(tmp_path / "whole")

    def refuses(name, changed, message):
        folder = shutil.copytree(whole, tmp_path / "changed")
        file = folder / name
        if changed is None:
            file.unlink()
        else:
            file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
        with pytest.raises(UserError, match=message) as refused:
            read_karlo(folder)
        assert "\n" not in str(refused.value)
        shutil.rmtree(folder)

    scheduler = "decoder_scheduler/scheduler_config.json"
    refuses(scheduler, None, "there is no .*decoder_scheduler")
    refuses(scheduler, {"prediction_type": "sample"}, "describes another process than Karlo's")
    refuses("decoder/config.json", None, "there is no .*config.json, which says what network")
    refuses(
        "super_res_last/config.json", {"norm_num_groups": 8}, "the super_res_last of .* does not fit the other parts"
    )
    refuses("text_encoder/config.json", {"num_attention_heads": 5}, "is no multiple of its num_attention_heads")


def test_folders_that_lack_something(tmp_path):
    """One sentence each."""
    whole = written(tmp_path / "whole", "text")

    def refuses(change, message):
        folder = shutil.copytree(whole, tmp_path / "changed")
        change(folder)
        with pytest.raises(UserError, match=message) as refused:
            describe_pipeline(folder)
        assert "\n" not in str(refused.value)
        shutil.rmtree(folder)

    def entries(name, **changed):
        def change(folder):
            file = folder / name
            file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))

        return change

    def text(name, content):
        return lambda folder: (folder / name).write_text(content)

    index = "model_index.json"
    refuses(lambda folder: (folder / index).unlink(), "there is no .*model_index.json, which says of what a pipeline")
    refuses(text(index, "{"), "model_index.json is damaged")
    refuses(text(index, "[" * 100_000), "model_index.json is damaged")
    refuses(text(index, "[]"), "holds no table of entries")
    refuses(text(index, " " * (1 << 20) + "{}"), "has more than 1,048,576 bytes")
    refuses(
        entries(index, _class_name="StableDiffusionXLPipeline"), "is of 'StableDiffusionXLPipeline', and only Stable"
    )
    refuses(entries(index, _class_name=["x"]), "is of .*, and only StableDiffusionPipeline")
    refuses(entries(index, unet=["diffusers", "Transformer2DModel"]), "has a unet of 'Transformer2DModel', and only")
    refuses(entries(index, vae="x"), "names no class of the part vae")
    refuses(
        entries(index, text_encoder_2=["transformers", "CLIPTextModel"]), "has the part text_encoder_2, which is not"
    )
    refuses(entries(index, **{"../x": ["a", "b"]}), "names the part '../x', which is no name")
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        refuses(
            lambda folder, part=part: shutil.rmtree(folder / part), f"has no folder {part}, which its model_index.json"
        )
    refuses(lambda folder: shutil.rmtree(folder / "scheduler"), "which says what the network was trained for: fetch it")
    refuses(entries("scheduler/scheduler_config.json", _class_name="ScoreSdeVpScheduler"), "process is not known here")
    refuses(entries("unet/config.json", in_channels=5), "takes 5 channels and gives 4, where a StableDiffusionPipeline")
    refuses(
        entries("unet/config.json", cross_attention_dim=24), "is for texts of 24 channels and the text encoder makes 32"
    )
    refuses(entries("unet/config.json", num_class_embeds=3), "needs a further condition or predicts a variance")
    refuses(entries("unet/config.json", addition_embed_type="text_time"), "has addition_embed_type 'text_time'")
    refuses(
        entries("text_encoder/config.json", architectures=["BertModel"]), "is of 'BertModel', and a CLIPTextModel or"
    )
    refuses(entries("text_encoder/config.json", hidden_act="relu"), "has hidden_act 'relu', and only")
    refuses(
        entries("vae/config.json", latent_channels=3),
        "where a StableDiffusionPipeline with latents of 3 channels has 3",
    )


def test_text_encoders_there_and_back(tmp_path):
    """With and without a projection, and under the names without a prefix that newer versions have in memory."""
    folder = written(tmp_path / "karlo", "karlo")
    projected = read_clip_text(folder / "text_encoder")
    plain = read_clip_text(written(tmp_path / "text", "text") / "text_encoder")
    assert (projected.embedding, plain.embedding) == (32, 0)
    for name, text in (("projected", projected), ("plain", plain)):
        write_clip_text(tmp_path / name, text)
        again = read_clip_text(tmp_path / name)
        assert dataclasses.replace(again, variables=None) == dataclasses.replace(text, variables=None)
        jax.tree.map(np.testing.assert_array_equal, again.variables, text.variables)
    config, tensors = read_folder(tmp_path / "plain")
    bare = {name.removeprefix("text_model."): array for name, array in tensors.items()}
    write_folder(tmp_path / "bare", {"config.json": config}, bare)
    jax.tree.map(np.testing.assert_array_equal, read_clip_text(tmp_path / "bare").variables, plain.variables)
    missing = {name: array for name, array in tensors.items() if "layers.1.self_attn.q_proj" not in name}
    write_folder(tmp_path / "missing", {"config.json": config}, missing)
    with pytest.raises(UserError, match=r"queries, keys and values of .* are missing or of different shapes"):
        read_clip_text(tmp_path / "missing")
