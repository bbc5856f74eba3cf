"""Devices that are not there: names, refusals, and, where the compilers are installed, the devices themselves."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from vision.errors import UserError
from vision.parallel import topology as topologies
from vision.parallel.chips import CHIPS, target_text
from vision.parallel.topology import EXTRAS, parse_topology, prepare
from vision.train.peaks import peak_flops


@pytest.mark.parametrize(
    ("name", "kind", "shape", "size"),
    [
        ("v5e:4x4", "TPU v5 lite", (4, 4), 16),
        ("v5e:1x1", "TPU v5 lite", (1, 1), 1),
        ("v6e:16x16", "TPU v6 lite", (16, 16), 256),
        ("v4:2x2x1", "TPU v4", (2, 2, 1), 4),
        ("v5p:4x4x8", "TPU v5", (4, 4, 8), 128),
        ("h100:8", "NVIDIA H100 80GB HBM3", (1, 8), 8),
        ("h100:4x8", "NVIDIA H100 80GB HBM3", (4, 8), 32),
        ("a100:1", "NVIDIA A100-SXM4-80GB", (1, 1), 1),
    ],
)
def test_names(name, kind, shape, size):
    found = parse_topology(name)
    assert (found.chip.device_kind, found.shape, found.size, found.name) == (kind, shape, size, name)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("v7:4x4", "there is no chip v7, only v4, v5e, v5p, v6e, a100, h100, h200, b200"),
        ("", "there is no chip without a name"),
        ("v5e", "no such shape of TPU v5 lite: write v5e:4x4"),
        ("v5e:16", "no such shape"),
        ("v5e:3x3", "even sides or 1x1"),
        ("v5e:4x4x4", "no such shape"),
        ("v5e:0x4", "no such shape"),
        ("v5p:4x4", "write v5p:2x2x1"),
        ("v5e:512x512", "no such shape"),
        ("h100:", "write h100:8 for eight, or h100:4x8 for four hosts of eight"),
        ("h100:2x4x8", "no such shape"),
        ("h100:-8", "no such shape"),
        ("h100:٨", "no such shape"),
    ],
)
def test_what_there_is_not_is_refused(name, problem):
    with pytest.raises(UserError, match=problem):
        parse_topology(name)


@pytest.mark.parametrize(("name", "extra"), [("v5e:4x4", "tpu"), ("h100:8", "cuda12")])
def test_a_missing_extra_is_one_sentence(name, extra, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=rf"--topology {name} needs the compiler .*pip install -e \"\.\[{extra}\]\""):
        prepare(parse_topology(name))


def test_the_environment_of_a_compiler_keeps_what_is_set(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda module: object())
    before = jax.config.jax_enable_compilation_cache
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_autotune_level=2")
    monkeypatch.setenv("TPU_WORKER_ID", "3")
    for name in topologies._TPU_ENVIRONMENT:
        if name != "TPU_WORKER_ID":
            monkeypatch.delenv(name, raising=False)
    try:
        prepare(parse_topology("h100:8"))
        prepare(parse_topology("v5e:4x4"))
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        found = dict(os.environ)
        for name in topologies._TPU_ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
    assert found["XLA_FLAGS"] == "--xla_gpu_autotune_level=2 --xla_gpu_enable_triton_gemm=false"
    assert (found["TPU_WORKER_ID"], found["TPU_SKIP_MDS_QUERY"]) == ("3", "1")


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_has_a_peak_and_every_gpu_a_description(name):
    chip = CHIPS[name]

    class Device:
        platform, device_kind = chip.platform, chip.device_kind

    assert peak_flops(Device, "bfloat16") > 1e14
    assert 0 < chip.available <= chip.memory
    assert chip.network <= chip.links
    if chip.platform == "tpu":
        with pytest.raises(ValueError, match="is no GPU"):
            target_text(chip)
    else:
        text = target_text(chip)
        assert f'device_description_str: "{chip.device_kind}"' in text
        assert f"device_memory_size: {chip.memory}\n" in text
        assert text.count("{") == text.count("}")


def test_hosts_of_gpus_are_joined_by_a_network():
    assert parse_topology("h100:2x8").links < parse_topology("h100:8").links
    assert parse_topology("v5e:4x4").links == CHIPS["v5e"].links


@pytest.mark.accelerator_compilers
@pytest.mark.parametrize("platform", EXTRAS)
def test_devices_that_are_not_there(platform):
    """In a process of its own: a compiler is loaded once, in its environment."""
    if importlib.util.find_spec(EXTRAS[platform][0]) is None:
        pytest.skip(f"needs the extra {EXTRAS[platform][1]}")
    names = {"tpu": ["v5e:1x1", "v5e:4x4", "v4:2x2x1", "v5p:2x2x2", "v6e:2x4"], "gpu": ["h100:2x8", "b200:1"]}[platform]
    code = f"""
import json
from vision.parallel.topology import devices_of, parse_topology, prepare
found = {{}}
for name in {names}:
    topology = parse_topology(name)
    prepare(topology)
    devices = devices_of(topology)
    hosts = len({{device.process_index for device in devices}})
    found[name] = [len(devices), topology.size, devices[0].device_kind, topology.chip.device_kind, hosts]
print(json.dumps(found))
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    for count, size, kind, expected, _ in found.values():
        assert (count, kind) == (size, expected)
    hosts = {name: entry[-1] for name, entry in found.items()}
    of_tpus = {"v5e:1x1": 1, "v5e:4x4": 4, "v4:2x2x1": 1, "v5p:2x2x2": 2, "v6e:2x4": 2}
    assert hosts == {"tpu": of_tpus, "gpu": {"h100:2x8": 2, "b200:1": 1}}[platform]
