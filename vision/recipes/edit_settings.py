"""What all recipes of editing refuse."""

from vision.errors import UserError
from vision.models.unet import UNetConfig
from vision.recipes.generative import GenerativeRunConfig


def check_edit_settings(config: GenerativeRunConfig) -> None:
    """Raise ``UserError`` for settings that follow from a recipe of editing, or that it has not."""
    model = config.model
    assert isinstance(model, UNetConfig)  # the only network that is given images and tokens
    fields = ("classes", "embedding", "vocabulary", "tokens", "text", "text_embedding", "condition_channels", "levels")
    for name in fields:
        if getattr(model, name):
            raise UserError(f"model.{name} follows from the recipe of edits: leave it out")
    if config.first_stage.path is not None:
        raise UserError("edits are generated in pixels: leave first_stage.path out")
    if config.flip and config.data.name == "shapes":
        raise UserError("words of edits say left and right, which a flip would make wrong: set flip False")
