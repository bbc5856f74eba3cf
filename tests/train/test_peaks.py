from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from vision.train.peaks import measured_peak, peak_flops, utilisation


@pytest.mark.parametrize(
    ("kind", "platform", "dtype", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "gpu", jnp.bfloat16, 312),
        ("NVIDIA H100 80GB HBM3", "gpu", jnp.bfloat16, 989),
        ("TPU v4", "tpu", jnp.bfloat16, 275),
        ("TPU v5 lite", "tpu", jnp.bfloat16, 197),
        ("TPU v3", "tpu", jnp.bfloat16, 61.5),  # a JAX device is a core there, half of a chip of 123
    ],
)
def test_published_peaks(kind, platform, dtype, tflops):
    device = SimpleNamespace(device_kind=kind, platform=platform)
    assert peak_flops(device, dtype) == pytest.approx(tflops * 1e12, rel=0.01)


def test_an_unknown_device_has_no_peak():
    assert peak_flops(SimpleNamespace(device_kind="Abacus 3000", platform="gpu"), jnp.bfloat16) is None


def test_a_cpu_is_measured_and_its_devices_share_it():
    whole = measured_peak(jax.devices()[0], jnp.float32)
    assert 1e8 < whole < 1e14
    assert peak_flops(jax.devices()[0], jnp.float32) < whole  # eight simulated devices on one CPU


def test_utilisation_is_a_share_of_all_devices():
    assert utilisation(1e12, 2.0, 1e12, 4) == pytest.approx(1 / 8)
