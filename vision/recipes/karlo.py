"""The decoder and the super-resolution of a published unCLIP, Karlo, from embeddings of images to images.

    karlo = read_karlo("karlo-v1-alpha")
    text, none = (karlo.encode(karlo.variables, tokens) for tokens in (tokens, empty))
    small = karlo.decode(karlo.variables, image_embedding, text, none, index=jnp.arange(4), key=key)     # 64 pixels
    large = karlo.enlarge(karlo.variables, small, index=jnp.arange(4), key=key)                          # 256 pixels

Ramesh et al. 2022, section 2.1, in the form of Kakao Brain, whose folder diffusers' UnCLIPPipeline reads. The prior in
it, which makes embeddings of images from texts, is a network by itself, and no part of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vision.diffusion.guidance import denoiser, guided, static_threshold
from vision.diffusion.samplers.ddim import ancestral
from vision.diffusion.samplers.plan import Denoiser, Plan, integrate
from vision.diffusion.schedules import NoiseSchedule, make_schedule
from vision.errors import UserError
from vision.home import expanded
from vision.models.clip.text import text_mask
from vision.models.unet import UNet, UNetConfig
from vision.models.unet_condition.text_projection import TextProjection, TextProjectionConfig
from vision.models.unet_condition.unet import ConditionUNet, ConditionUNetConfig
from vision.ops.resize import resize
from vision.pretrained.clip_text import PublishedText, read_clip_text
from vision.pretrained.diffusers_folder import read_config
from vision.pretrained.scheduler_config import FILE, PublishedProcess, read_scheduler_config
from vision.pretrained.text_projection import read_text_projection
from vision.pretrained.unet2d import read_unet2d
from vision.pretrained.unet2d_condition import read_unet2d_condition
from vision.pretrained.unet2d_config import published_side
from vision.tasks.sampling import predictor, start_noise

TEXT, PROJECTION, DECODER = "text_encoder", "text_proj", "decoder"
FIRST, LAST = "super_res_first", "super_res_last"
_PROCESS = PublishedProcess(schedule="cosine", prediction="epsilon")


@dataclass(frozen=True, kw_only=True, eq=False)
class Karlo:
    """The networks as pure functions of their variables."""

    text: PublishedText
    projection: TextProjectionConfig
    decoder: ConditionUNetConfig
    enlarger: UNetConfig
    """Of both networks of super-resolution."""
    sides: tuple[int, int]
    """Pixels of a decoded and of an enlarged image."""
    process: NoiseSchedule
    """Of all of them."""
    variables: Mapping[str, Any]
    """Of each network by the name of its folder, float32."""

    def encode(self, variables: Mapping[str, Any], tokens: Int[Array, "b n"]) -> dict[str, Array]:
        """Of texts "embedding" [b e], "tokens" [b n d] and "mask" bool [b n], True up to the end of the text."""
        made: Any = self.text.module.apply(variables[TEXT], tokens, train=False)
        return {**made, "mask": text_mask(tokens, self.text.config.end)}

    def decode(
        self,
        variables: Mapping[str, Any],
        image: Float[Array, "b e"],
        text: Mapping[str, Array],
        none: Mapping[str, Array],
        *,
        index: Int[Array, " b"],
        key: Key[Array, ""],
        steps: int = 25,
        guidance: float = 8.0,
    ) -> Float[Array, "b h w 3"]:
        """Small images in [-1, 1] of embeddings, by ancestral sampling with a learned variance.

        Args:
          variables: of the networks.
          image: embeddings of images, as long as those of the CLIP whose text encoder it is.
          text: of :meth:`encode`, of the captions.
          none: of the empty text, away from which guidance moves.
          index: numbers of the samples, on which and on the key the noise of each depends.
          key: of the noise.
          steps: of the sampler.
          guidance: scale of classifier-free guidance.
        """
        predict = predictor(ConditionUNet(self.decoder), variables[DECODER], variance=True)
        estimate = guided(
            denoiser(predict, self.process, "epsilon", variance=True),
            condition=self._condition(variables, image, text),
            null=self._condition(variables, None, none),
            scale=guidance,
        )
        plan = ancestral(self.process, self.process.times(steps), variance="learned")
        return jnp.clip(self._walked(plan, estimate, self.sides[0], index=index, key=key), -1.0, 1.0)

    def enlarge(
        self,
        variables: Mapping[str, Any],
        small: Float[Array, "b h w 3"],
        *,
        index: Int[Array, " b"],
        key: Key[Array, ""],
        steps: int = 7,
    ) -> Float[Array, "b H W 3"]:
        """Large images of small ones in [-1, 1]; the last step has its own network. Arguments as :meth:`decode`."""
        side = self.sides[1]
        large, network = resize(small, (side, side), method="bicubic"), UNet(self.enlarger)

        def predict(noisy: Array, time: Array, condition: Mapping[str, Array]) -> Array:
            del condition
            run = lambda name: lambda seen: network.apply(variables[name], seen, time, train=False)
            # of a batch, which has one time
            return jax.lax.cond(time[0] == 0, run(LAST), run(FIRST), jnp.concatenate([noisy, large], axis=-1))

        estimate = denoiser(predict, self.process, "epsilon")
        plan = ancestral(self.process, self.process.times(steps))
        return self._walked(plan, lambda noisy, time: estimate(noisy, time, {}), side, index=index, key=key)

    def _condition(
        self, variables: Mapping[str, Any], image: Array | None, text: Mapping[str, Array]
    ) -> dict[str, Array]:
        made: Any = TextProjection(self.projection).apply(
            variables[PROJECTION], image, text["embedding"], text["tokens"]
        )
        first = jnp.ones((len(text["mask"]), self.projection.tokens), bool)
        return {**made, "context_mask": jnp.concatenate([first, text["mask"]], axis=1)}

    def _walked(
        self, plan: Plan, estimate: Denoiser, side: int, *, index: Int[Array, " b"], key: Key[Array, ""]
    ) -> Array:
        start_key, walk_key = jax.random.split(key)
        start = start_noise(plan, (side, side, 3), index=index, key=start_key)
        return integrate(plan, estimate, start, key=walk_key, index=index, threshold=static_threshold())


def read_karlo(folder: str | Path) -> Karlo:
    """The networks in a pipeline's folder.

    Raises ``UserError`` where a part is missing or damaged, is of another kind, or parts do not fit each other.
    """
    folder = expanded(Path(folder))
    for name in ("decoder_scheduler", "super_res_scheduler"):
        file = folder / name / FILE
        if not file.is_file():
            raise UserError(f"there is no {file}, which says what a network was trained for: fetch it too")
        if read_scheduler_config(file) != _PROCESS:
            raise UserError(
                f"{file} describes another process than Karlo's, of a cosine and of epsilon: use its folder"
            )
    text = read_clip_text(folder / TEXT)
    projection, of_projection = read_text_projection(folder / PROJECTION)
    decoder, of_decoder = read_unet2d_condition(folder / DECODER)
    sides = [published_side(read_config(folder / name), origin=str(folder / name)) for name in (DECODER, FIRST)]
    first, of_first = read_unet2d(folder / FIRST, side=sides[1])
    last, of_last = read_unet2d(folder / LAST, side=sides[1])
    fits = {
        DECODER: (decoder.channels, decoder.out_channels, decoder.embedding) == (3, 6, "vector"),
        PROJECTION: (projection.context, projection.time_width) == (decoder.context, decoder.embedded),
        TEXT: text.embedding == text.config.width == projection.embedding,
        FIRST: (first.channels, first.out_channels) == (6, 3),
        LAST: last == first,
    }
    wrong = [name for name, fitting in fits.items() if not fitting]
    if wrong:
        raise UserError(f"the {wrong[0]} of {folder} does not fit the other parts of a Karlo: fetch all of them again")
    return Karlo(
        text=text,
        projection=projection,
        decoder=decoder,
        enlarger=first,
        sides=(sides[0], sides[1]),
        process=make_schedule("cosine", 1000),
        variables={
            **{TEXT: text.variables, PROJECTION: of_projection, DECODER: of_decoder},
            **{FIRST: of_first, LAST: of_last},
        },
    )
