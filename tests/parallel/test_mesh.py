import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

from vision.errors import UserError
from vision.parallel.mesh import AXES, MeshConfig, batch_shards, devices_needed, make_mesh, replicated, undivided


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(fsdp=4), (1, 2, 4, 1)),
        (MeshConfig(fsdp=2, tensor=2), (1, 2, 2, 2)),
        (MeshConfig(data=1, fsdp=1, tensor=8), (1, 1, 1, 8)),
    ],
)
def test_sizes(config, sizes):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.axis_names == AXES
    assert batch_shards(mesh) == sizes[1] * sizes[2]
    # explicit axes, the default of jax.make_mesh, refuse the gradient of a convolution
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert sorted(device.id for device in mesh.devices.flat) == [device.id for device in jax.devices()]


def test_a_part_of_the_devices():
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    assert list(mesh.devices.flat) == jax.devices()[:2]


@given(data=st.integers(-2, 9), fsdp=st.integers(-1, 9), tensor=st.integers(-1, 9))
def test_a_mesh_fits_or_the_message_says_what_would(data, fsdp, tensor):
    config = MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    if min(fsdp, tensor) < 1 or data == 0 or data < -1:
        with pytest.raises(UserError, match="mesh sizes are positive"):
            make_mesh(config)
    elif (data * fsdp * tensor == 8) if data != -1 else 8 % (fsdp * tensor) == 0:
        assert make_mesh(config).size == 8
    else:
        with pytest.raises(UserError, match=f"fsdp={fsdp}, tensor={tensor} does not fit 8 devices"):
            make_mesh(config)


def test_a_batch_is_shared_and_a_replica_is_whole():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert batch_shards(mesh) == 4
    assert replicated(mesh).is_fully_replicated


@pytest.mark.parametrize(
    ("config", "replicas", "sizes"),
    [
        (MeshConfig(), 8, (8, 1, 1, 1)),
        (MeshConfig(), 3, (1, 8, 1, 1)),  # three runs cannot be divided among eight devices: each uses all
        (MeshConfig(), 6, (2, 4, 1, 1)),
        (MeshConfig(fsdp=4), 8, (2, 1, 4, 1)),
        (MeshConfig(data=8), 8, (1, 8, 1, 1)),
        (MeshConfig(seeds=2, tensor=2), 8, (2, 2, 1, 2)),
    ],
)
def test_replicas_divide_the_devices_first(config, replicas, sizes):
    mesh = make_mesh(config, replicas=replicas)
    assert tuple(mesh.shape.values()) == sizes
    alone = undivided(mesh)
    assert tuple(alone.shape.values()) == (1, sizes[0] * sizes[1], *sizes[2:])
    assert list(alone.devices.flat) == list(mesh.devices.flat)


def test_replicas_that_cannot_be_divided():
    with pytest.raises(UserError, match=r"3 runs cannot be divided among mesh\.seeds=2"):
        make_mesh(MeshConfig(seeds=2), replicas=3)
    with pytest.raises(UserError, match="1 run cannot"):
        make_mesh(MeshConfig(seeds=2))


def test_the_fewest_devices_of_a_mesh():
    assert devices_needed(MeshConfig()) == 1
    assert devices_needed(MeshConfig(data=32, fsdp=8)) == 256
    assert devices_needed(MeshConfig(seeds=4, tensor=2)) == 8
