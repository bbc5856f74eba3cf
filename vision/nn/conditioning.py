"""What a network is conditioned on: the conditions that its configuration names, their shapes, and their check."""

from collections.abc import Collection, Mapping
from typing import Protocol, runtime_checkable

from vision.errors import UserError
from vision.types import Condition


@runtime_checkable
class ConditionConfig(Protocol):
    """The fields of a network's configuration that name its conditions; 0 for none."""

    @property
    def classes(self) -> int:
        """Number of classes of "label"."""
        ...

    @property
    def embedding(self) -> int:
        """Width of "embedding"."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of values of "tokens"."""
        ...

    @property
    def tokens(self) -> int:
        """Length of "tokens"."""
        ...

    @property
    def condition_channels(self) -> int:
        """Channels of "image"."""
        ...

    @property
    def durations(self) -> bool:
        """Whether there is a "duration", which the objective gives and not the data."""
        ...


@runtime_checkable
class TextConditionConfig(Protocol):
    """The further fields of a network that is conditioned on encoded texts, or on a noisy image; 0 for none."""

    @property
    def text(self) -> int:
        """Channels of each token of "text"."""
        ...

    @property
    def text_length(self) -> int:
        """Tokens of "text"."""
        ...

    @property
    def text_embedding(self) -> int:
        """Width of "text_embedding"."""
        ...

    @property
    def embedding_tokens(self) -> int:
        """Tokens made of "embedding"."""
        ...

    @property
    def levels(self) -> bool:
        """Whether there is a "level", the noise of the condition "image"."""
        ...


def check_data_conditions(config: ConditionConfig, *, available: Collection[str]) -> None:
    """Raise ``UserError`` where a network is built for a condition that the data of a recipe has not.

    Args:
      config: of the network.
      available: the conditions that the data has, such as "label".
    """
    fields = {"classes": "label", "embedding": "embedding", "vocabulary": "tokens", "tokens": "tokens"}
    for field, condition in {**fields, "condition_channels": "image"}.items():
        if getattr(config, field) and condition not in available:
            raise UserError(f"model.{field} is for the condition {condition!r}, which this data has not: leave it 0")
    if isinstance(config, TextConditionConfig):
        fields = {"text": "text", "text_embedding": "text_embedding", "levels": "level"}
        for field, condition in fields.items():
            if getattr(config, field) and condition not in available:
                raise UserError(
                    f"model.{field} is for the condition {condition!r}, which this data has not: leave it out"
                )


def condition_shapes(config: ConditionConfig, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape of each condition of a network for noisy images of ``image_shape`` (b, h, w, c).

    Raises ``UserError`` where only one of ``vocabulary`` and ``tokens``, or of ``text`` and ``text_length``, is 0.
    """
    if (config.vocabulary > 0) != (config.tokens > 0):
        raise UserError(
            f"model.vocabulary is {config.vocabulary} and model.tokens is {config.tokens}: a network is conditioned on "
            "tokens where both are above 0"
        )
    batch, *sides, _ = image_shape
    shapes: dict[str, tuple[int, ...]] = {}
    if config.classes:
        shapes["label"] = (batch,)
    if config.embedding:
        shapes["embedding"] = (batch, config.embedding)
    if config.tokens:
        shapes["tokens"] = (batch, config.tokens)
    if config.condition_channels:
        shapes["image"] = (batch, *sides, config.condition_channels)
    if config.durations:
        shapes["duration"] = (batch,)
    if isinstance(config, TextConditionConfig):
        if config.embedding_tokens and "embedding" not in shapes:
            raise UserError("model.embedding_tokens are made of an embedding: set model.embedding too, or leave them 0")
        shapes |= _text_shapes(config, batch)
    return shapes


def _text_shapes(config: TextConditionConfig, batch: int) -> dict[str, tuple[int, ...]]:
    if (config.text > 0) != (config.text_length > 0):
        raise UserError(
            f"model.text is {config.text} and model.text_length is {config.text_length}: a network is conditioned on "
            "a text where both are above 0"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    if config.text:
        shapes["text"] = (batch, config.text_length, config.text)
    if config.text_embedding:
        shapes["text_embedding"] = (batch, config.text_embedding)
    if config.levels:
        shapes["level"] = (batch,)
    return shapes


def check_condition(network: str, condition: Condition, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ``ValueError`` unless ``condition`` has the names and shapes that a network was built for.

    Args:
      network: the network's name in messages, with its article: "a UNet".
      condition: what it was given.
      expected: shape of each condition that the network needs, as of :func:`condition_shapes`.
    """
    conditions = "conditions" if len(expected) > 1 else "condition"
    built = f"{network} with the {conditions} {', '.join(expected)}" if expected else f"{network} without conditions"
    for name in condition:
        if name not in expected:
            raise ValueError(f"{built} was given the condition {name!r}")
    for name, shape in expected.items():
        if name not in condition:
            raise ValueError(f"{built} was not given the condition {name!r}")
        if condition[name].shape != shape:
            raise ValueError(
                f"{built} was given the condition {name!r} of shape {condition[name].shape}, which should be {shape}"
            )
