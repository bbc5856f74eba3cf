"""Published weights of networks for super-resolution and restoration: what is read and written of each."""

import os
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vision.models.restoration.dncnn import Dncnn, DncnnConfig
from vision.models.restoration.edsr import Edsr, EdsrConfig
from vision.models.restoration.rrdb import Rrdb, RrdbConfig
from vision.models.restoration.srcnn import Srcnn, SrcnnConfig
from vision.models.restoration.swinir import SwinIr, SwinIrConfig
from vision.models.restoration.vdsr import Vdsr, VdsrConfig
from vision.platform import shapes_of
from vision.pretrained.adapted import Adapt, unchanged
from vision.pretrained.convolution_chain import chain_weights, dncnn_rules, srcnn_rules, vdsr_rules
from vision.pretrained.edsr import edsr_rules, edsr_weights
from vision.pretrained.rrdb import rrdb_rules
from vision.pretrained.rules import WeightRules, from_published, surplus_prefix
from vision.pretrained.state_dict import read_weights
from vision.pretrained.swinir import swinir_rules, swinir_weights

RestorationConfig = SrcnnConfig | VdsrConfig | DncnnConfig | EdsrConfig | RrdbConfig | SwinIrConfig


@dataclass(frozen=True)
class RestorationNetwork:
    """A network with what is needed to read and write published weights of it."""

    module: nn.Module
    published: WeightRules
    """The first names that fit are written."""
    ignored: tuple[str, ...] = ()
    adapt: Adapt = unchanged


def restoration_network(config: RestorationConfig) -> RestorationNetwork:
    """The network of a configuration."""
    match config:
        case SrcnnConfig():
            rules = srcnn_rules(config)
            return RestorationNetwork(Srcnn(config), rules, adapt=chain_weights(rules))
        case VdsrConfig():
            rules = vdsr_rules(config)
            return RestorationNetwork(Vdsr(config), rules, adapt=chain_weights(rules))
        case DncnnConfig():
            return RestorationNetwork(Dncnn(config), dncnn_rules(config), ignored=(r"num_batches_tracked$",))
        case EdsrConfig():
            return RestorationNetwork(Edsr(config), edsr_rules(config), adapt=edsr_weights(config))
        case RrdbConfig():
            return RestorationNetwork(Rrdb(config), rrdb_rules(config))
        case SwinIrConfig():
            return RestorationNetwork(SwinIr(config), swinir_rules(config), adapt=swinir_weights(config))


def restoration_shapes(config: RestorationConfig) -> Any:
    """Shapes of the variables, {"params": ...}; nothing is computed."""
    side = 4 * config.window if isinstance(config, SwinIrConfig) else 16
    image = jax.ShapeDtypeStruct((1, side, side, config.channels), jnp.float32)
    module = restoration_network(config).module
    return shapes_of(lambda x: module.init(jax.random.key(0), x, train=False), image)


def read_restoration(path: str | os.PathLike[str], config: RestorationConfig) -> Any:
    """Variables of numpy arrays for the network of ``config``, from a file of published weights.

    Args:
      path: a file as :func:`vision.pretrained.state_dict.read_weights` reads it; averaged weights are preferred.
      config: the network.

    Raises:
      UserError: the file cannot be read, or its arrays are not exactly those of the network.
    """
    network, variables = restoration_network(config), restoration_shapes(config)
    tensors = read_weights(path).tensors
    prefix = surplus_prefix(tensors, variables, rules=network.published, ignored=network.ignored)
    tensors = {name.removeprefix(prefix): np.asarray(array) for name, array in tensors.items()}
    adapted = network.adapt(tensors, variables)
    return from_published(adapted.tensors, variables, rules=network.published, ignored=network.ignored)[0]
