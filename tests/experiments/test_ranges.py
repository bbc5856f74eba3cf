"""Every number of every experiment's configuration has a range, and what lies outside is refused first."""

import importlib
import math
import re

import jax
import pytest

from vision.errors import UserError
from vision.launch.experiment_module import experiment_paths
from vision.launch.options import option_of, parse
from vision.launch.replicas import replaced
from vision.ranges import check_ranges, numbers

MODULES = {name: importlib.import_module(f"experiments.{name}") for name in experiment_paths()}


def parsed(module, *arguments):
    return parse("demo", default=module.Config(), quick=module.QUICK, description="", arguments=arguments).config


def outside(number):
    """Numbers beyond each end of a field's range."""
    ends = {
        end: getattr(each, end) for each in number.constraints for end in ("ge", "gt", "le", "lt") if hasattr(each, end)
    }
    values = [math.nan] if number.kind is float else []
    values += [ends["ge"] - 1] if "ge" in ends else [ends["gt"]] if "gt" in ends else []
    values += [ends["le"] + 1] if "le" in ends else [ends["lt"]] if "lt" in ends else []
    return values


@pytest.mark.parametrize("name", MODULES)
def test_eight_devices_share_every_batch(name):
    assert MODULES[name].Config().batch_size % 8 == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dit_cifar", ["--model.embedding", "2"], "'embedding', which this data has not: leave it 0"),
        ("colourise", ["--model.classes", "3"], "'label', which this data has not: leave it 0"),
        ("colourise", ["--model.heads", "3"], "3 attention heads cannot share"),
        ("diffusion_cifar", ["--model.width", "1"], "model.width must be at least 4"),
    ],
)
def test_settings_that_no_network_has(name, options, message):
    with pytest.raises(UserError, match=message):
        jax.eval_shape(MODULES[name].build(parsed(MODULES[name], "--quick", *options)).init, jax.random.key(0))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1" + "0" * 400, r"images must be at least 1 and at most 1,000,000,000,000, not a number of 401 digits"),
        ("-3", "images must be at least 1, not -3"),
        ("2000000000000", "images must be at least 1 and at most 1,000,000,000,000, not 2,000,000,000,000"),
    ],
)
def test_numbers_of_any_size_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        parsed(MODULES["finetune"], "--quick", "--images", value)


def test_a_warm_up_that_cannot_have_its_effect_is_reported():
    notices = parsed(MODULES["finetune"], "--quick", "--images", "640", "--optimizer.warmup", "10000").notices()
    assert notices == ("optimizer.warmup takes 10,000 images and the run has 640: it ends before the warm-up does",)
    (notice,) = parsed(MODULES["finetune"], "--quick", "--optimizer.warmup", "3").notices()
    assert re.fullmatch(r"optimizer.warmup takes 3 images, less than a batch of \d+: there is no warm-up", notice)


@pytest.mark.parametrize("name", MODULES)
def test_every_number_has_a_range(name):
    assert [number.name for number in numbers(MODULES[name].Config()) if not number.constraints] == []


@pytest.mark.parametrize("name", MODULES)
def test_numbers_out_of_range_are_refused_by_name(name):
    module = MODULES[name]
    tried = 0
    for number in numbers(module.QUICK):
        for value in outside(number):
            wrong = (value,) * max(len(number.value), 1) if isinstance(number.value, tuple) else value
            with pytest.raises(UserError, match=number.name.rpartition(".")[2]):
                check_ranges(replaced(module.QUICK, {number.name: wrong}))
            tried += 1
    assert tried > 100


@pytest.mark.parametrize("name", MODULES)
def test_so_are_options(name):
    """The last number of each experiment, since parsing takes a tenth of a second."""
    module = MODULES[name]
    number = next(each for each in reversed(list(numbers(module.QUICK))) if not isinstance(each.value, tuple))
    with pytest.raises(UserError, match=number.name.rpartition(".")[2]):
        parsed(module, "--quick", option_of(number.name), str(outside(number)[-1]))
