"""The scaling tables against sums by hand."""

import jax
import pytest

from benchmarks.scaling import Workload, abstract_mesh, activation_bytes, exchange_seconds, held, latency, rows, traced
from vision.parallel.chips import CHIPS

WIDTH, DEPTH, SIDE = 16, 2, 32
OPTIONS = ("--quick", "--model.width", str(WIDTH), "--model.depth", str(DEPTH), "--model.heads", "2")
WORKLOAD = Workload("dit_cifar", OPTIONS, 4, 8_192)


@pytest.fixture(scope="module")
def known():
    return traced(WORKLOAD)


def test_what_tensor_parallelism_sums(known):
    """The results of the attention and of the dense network of each block, and of the embedding of the time."""
    tokens = (SIDE // 4) ** 2
    assert known.tensor_sums == 2 * DEPTH + 1
    assert known.reduced == 4 * WIDTH * (2 * DEPTH * tokens + 1)
    assert known.sums == 0


def test_operations_are_those_of_three_passes(known):
    tokens = (SIDE // 4) ** 2
    block = tokens * (12 * WIDTH**2 + 2 * tokens * WIDTH)
    assert known.flops == pytest.approx(3 * 2 * DEPTH * block, rel=0.15)


def test_every_chip_holds_its_share(known):
    whole, _ = held(known.state, known.experiment.rules, abstract_mesh(4, 1, 1))
    shared, placed = held(known.state, known.experiment.rules, abstract_mesh(1, 1, 2))
    assert whole == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(known.state)[:-1]) + 8
    assert 0.5 < shared / whole < 1
    assert placed.params["block_0"]["dense_in"]["kernel"].spec[1] == "tensor"


def test_gpus_sum_within_hosts_first():
    chip, least = CHIPS["h100"], {"all-reduce": 900e6}
    assert exchange_seconds(chip, abstract_mesh(8, 1, 1), least) == pytest.approx(900e6 / 450e9)
    assert exchange_seconds(chip, abstract_mesh(16, 1, 1), least) == pytest.approx(900e6 / 450e9 + 900e6 / 8 / 50e9)
    # a device of eight that share a parameter sums its share alone
    assert exchange_seconds(chip, abstract_mesh(2, 8, 1), least) == pytest.approx(900e6 / 450e9 + 900e6 / 50e9)
    assert latency(chip, 64) == pytest.approx(10e-6 + 3 * 5e-6)
    assert latency(CHIPS["v5p"], 4096) == pytest.approx(48e-6)


def test_activations_are_the_difference_of_two_programs():
    row = lambda batch, size: {
        "experiment": "dit_cifar",
        "options": [*OPTIONS, "--batch-size", str(batch)],
        "memory": {"temporaries": size},
    }
    assert activation_bytes(WORKLOAD, [row(4, 1_000), row(8, 1_400)]) == 100
    assert activation_bytes(WORKLOAD, [row(4, 1_000)]) is None


def test_rows_have_every_chip_size_and_layout(known):
    lines = rows("a", WORKLOAD, known, 100.0)
    assert len(lines) == 2 * 3 * 3
    efficiencies = [float(cell) for line in lines for cell in line.split("|")[-3:-1]]
    assert all(0 <= each <= 1 for each in efficiencies)
