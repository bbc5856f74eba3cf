"""The names of published RRDBs: BasicSR's, those of ESRGAN's first release, and those of its release for testing."""

from vision.models.restoration.rrdb import RrdbConfig
from vision.pretrained.pixel_shuffle import unshuffled_rules
from vision.pretrained.rules import CONV, Rule, dense_rules


def rrdb_rules(config: RrdbConfig) -> tuple[Rule, ...]:
    """All kinds of names; BasicSR's are written."""
    return (*basicsr_rules(config), *first_release_rules(config), *second_release_rules(config))


def basicsr_rules(config: RrdbConfig) -> tuple[Rule, ...]:
    """``conv_first``, ``body.0.rdb1.conv1``, ``conv_body``, ``conv_up1``, ``conv_hr``, ``conv_last``."""
    names = ("conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
    return _rules(config, "body.{block}.rdb{dense}.conv{number}", names)


def first_release_rules(config: RrdbConfig) -> tuple[Rule, ...]:
    """``model.0``, ``model.1.sub.0.RDB1.conv1.0``, ``model.1.sub.23``, ``model.3``: numbers in a list of layers."""
    names = ("model.0", f"model.1.sub.{config.blocks}", "model.3", "model.6", "model.8", "model.10")
    return _rules(config, "model.1.sub.{block}.RDB{dense}.conv{number}.0", names)


def second_release_rules(config: RrdbConfig) -> tuple[Rule, ...]:
    """``conv_first``, ``RRDB_trunk.0.RDB1.conv1``, ``trunk_conv``, ``upconv1``, ``HRconv``, ``conv_last``."""
    names = ("conv_first", "trunk_conv", "upconv1", "upconv2", "HRconv", "conv_last")
    return _rules(config, "RRDB_trunk.{block}.RDB{dense}.conv{number}", names)


def _rules(config: RrdbConfig, dense: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    ours = ("conv_first", "conv_after", "conv_up_1", "conv_up_2", "conv_fine", "conv_last")
    first = unshuffled_rules(names[0], ours[0], 4 // config.scale)
    others = [dense_rules(*pair, CONV) for pair in zip(names[1:], ours[1:], strict=True)]
    blocks = dense_rules(dense, "block_{block}_dense_{dense}/conv_{number}", CONV)
    return (*first, *blocks, *(rule for pair in others for rule in pair))
