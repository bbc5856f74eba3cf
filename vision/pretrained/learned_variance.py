"""Published diffusion networks that predict a variance too, as parts of networks that predict the target alone."""

from vision.pretrained.state_dict import StateDict


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
    return {**tensors, **kept}, "their outputs for the variance are left out"
