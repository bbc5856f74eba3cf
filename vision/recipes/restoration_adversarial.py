"""The recipe of restoration as a game, SRGAN and ESRGAN: a network that was trained for PSNR, and a discriminator."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vision.errors import UserError
from vision.models.gan.restoration import UNetDiscriminator, VggDiscriminator
from vision.models.restoration.rrdb import RRDB
from vision.pretrained.adapted import Adapted
from vision.pretrained.rules import to_published
from vision.pretrained.state_dict import StateDict
from vision.ranges import Channels, NonNegativeFloat
from vision.recipes.assemble import WeightsSource, assemble
from vision.recipes.restoration import (
    EVALUATION_ONLY,
    RestorationRunConfig,
    adam,
    check,
    data_of,
    evaluation,
    inference,
    pairs,
    perceptual_part,
    prediction,
)
from vision.recipes.restoration_networks import Network, NetworkConfig, enlarging_network, network
from vision.tasks import adversarial as game
from vision.tasks.adversarial import generator_variables
from vision.tasks.restoration_adversarial import restoring_discriminator_loss, restoring_generator_loss
from vision.train.experiment import Experiment
from vision.train.optimizer import AdamConfig
from vision.train.state import averages
from vision.train.step import accumulate, alternate, gradient, preprocessed
from vision.types import LossFn

LossName = Literal["relativistic_average", "non_saturating", "hinge"]
LOSSES: Mapping[LossName, game.AdversarialLoss] = {
    "relativistic_average": game.RELATIVISTIC_AVERAGE,
    "non_saturating": game.NON_SATURATING,
    "hinge": game.HINGE,
}


@dataclass(frozen=True)
class GameConfig:
    """The discriminator, and what the game is."""

    discriminator: Literal["vgg", "unet"] = "vgg"
    """A logit for each patch (Ledig et al. 2017), or for each pixel, with spectral normalisation (Wang et al. 2021)."""
    width: Channels = 64
    """Channels, at least 1, of its first layer."""
    loss: LossName = "relativistic_average"
    """What the two players minimise: that of ESRGAN, that of SRGAN and Real-ESRGAN, or hinge losses."""
    weight: NonNegativeFloat = 5e-3
    """Of the generator's part, not negative."""


@dataclass(frozen=True, kw_only=True)
class AdversarialRestorationConfig(RestorationRunConfig):
    """A recipe; the defaults are ESRGAN's but for the features, whose weights are a file of yours."""

    model: NetworkConfig = enlarging_network(RRDB)
    game: GameConfig = GameConfig()
    discriminator_optimizer: AdamConfig = AdamConfig(lr=1e-4, schedule="cosine")


def adversarial_restoration(config: AdversarialRestorationConfig) -> Experiment:
    """The experiment. Raises ``UserError`` for settings that contradict each other."""
    net, loss = network(config.model), LOSSES[config.game.loss]
    check(config, net)
    if config.game.discriminator == "unet" and config.data.patch % 8:
        raise UserError(
            f"the UNet as discriminator needs a data.patch that is a multiple of 8, not {config.data.patch}"
        )
    discriminator = {"vgg": VggDiscriminator, "unet": UNetDiscriminator}[config.game.discriminator](config.game.width)
    data = data_of(config, net)
    frozen, features = perceptual_part(config)
    generator_loss = restoring_generator_loss(
        net.module, discriminator, config.loss, loss, weight=config.game.weight, features=features
    )
    losses: dict[str, LossFn] = {
        "discriminator": restoring_discriminator_loss(net.module, discriminator, loss),
        "generator": generator_loss,
    }
    optimizers = {
        "discriminator": adam(config.discriminator_optimizer, config),
        "generator": adam(config.optimizer, config),
    }
    prepare = lambda loss: accumulate(preprocessed(loss, pairs(config, net)), config.microbatches)
    steps = {part: gradient(prepare(loss), optimizers[part], part=part) for part, loss in losses.items()}
    return assemble(
        config,
        variables=functools.partial(variables, config, net, discriminator),
        step=alternate(steps["discriminator"], steps["generator"]),
        optimizer=optimizers,
        averaging=generator_variables,
        data=data,
        evaluation=evaluation(config, net, data),
        prediction=functools.partial(prediction, config, net),
        inference=functools.partial(inference, config, net),
        weights=weights_source(net),
        frozen=frozen,
        rules=net.rules,
        evaluation_only=EVALUATION_ONLY,
    )


def variables(
    config: AdversarialRestorationConfig,
    net: Network,
    discriminator: VggDiscriminator | UNetDiscriminator,
    key: jax.Array,
) -> dict[str, Any]:
    """{"params": {player: ...}, "discriminator": its other collections}."""
    generator_key, discriminator_key = jax.random.split(key)
    large, small = config.data.patch, config.data.patch // net.scale
    image = lambda side: jnp.zeros((1, side, side, net.channels))
    generator = net.module.init({"params": generator_key}, image(small), train=False)
    if set(generator) != {"params"}:
        raise UserError("a network with batch normalisation is not trained as a game here: choose another --model")
    made = discriminator.init(discriminator_key, image(large), train=False)
    rest = {name: tree for name, tree in made.items() if name != "params"}
    return {
        "params": {"generator": generator["params"], "discriminator": made["params"]},
        "discriminator": rest,
    }


def weights_source(net: Network) -> WeightsSource:
    """Weights are the generator's alone: published ones, those of a run of super-resolution, or of such a game.

    The discriminator always starts from random variables.
    """
    ours = lambda path: path.replace("params/", "params/generator/", 1)

    def adapt(tensors: StateDict, variables: Mapping[str, Any]) -> Adapted:
        if all(name.startswith("params/") for name in tensors):  # of this project
            return Adapted({ours(name): array for name, array in tensors.items()})
        return net.adapt(tensors, {"params": variables["params"]["generator"]})

    return WeightsSource(
        published=tuple(replace(rule, ours=ours(rule.ours)) for rule in net.published),
        ignored=net.ignored,
        adapt=adapt,
        replaced=("^params/discriminator/",),
        written=(lambda state: to_published(averages(state), rules=net.published)) if net.published else None,
        excluded=("discriminator",),
    )
