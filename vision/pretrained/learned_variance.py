"""Published diffusion networks that predict a variance too, as parts of networks that predict the target alone."""

from vision.errors import UserError
from vision.pretrained.state_dict import StateDict


def variance_is_surplus(ours: tuple[int, int], published: tuple[int, int], *, origin: str) -> bool:
    """Whether a published network predicts a variance and the run's does not.

    Args:
      ours: channels and outputs of the run's network.
      published: those of the published one.
      origin: its config.json, for messages.

    Raises:
      UserError: the run's network predicts a variance and the published one does not.
    """
    (channels, outputs), (_, found) = ours, published
    if ours[0] == published[0] == found and outputs == 2 * channels:
        raise UserError(
            f"{origin} describes a network that predicts no variance, and this run's does: set --diffusion.variance "
            "fixed, and leave --model.out-channels out"
        )
    return ours[0] == published[0] == outputs and found == 2 * channels


def without_variance(tensors: StateDict, layer: str, *, patch: int = 1) -> tuple[StateDict, str]:
    """The arrays without the outputs for the variance, and a note of that.

    Nichol & Dhariwal 2021 and Peebles & Xie 2023: of twice as many channels as the image has, the first half is the
    target.

    Args:
      tensors: published arrays.
      layer: the last layer's name; its "weight" and "bias" begin with an axis of patch * patch * channels outputs.
      patch: side of the squares of pixels that an output is of.
    """
    names = [name for name in (f"{layer}.weight", f"{layer}.bias") if name in tensors]
    whole = {name: tensors[name].reshape(patch**2, -1, *tensors[name].shape[1:]) for name in names}
    kept = {name: array[:, : array.shape[1] // 2].reshape(-1, *array.shape[2:]) for name, array in whole.items()}
    return {**tensors, **kept}, "their outputs for the variance are left out (--diffusion.variance learned uses them)"
