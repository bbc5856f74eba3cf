"""ArtFID: Wright & Ommer 2022, "ArtFID: Quantitative Evaluation of Neural Style Transfer"."""


def artfid(lpips: float, frechet: float) -> float:
    """(1 + LPIPS) (1 + FID), eq. 4; at least 1, and smaller is better.

    Args:
      lpips: mean LPIPS of stylised images to their contents: how much of the content is lost.
      frechet: Fréchet distance of stylised images to the paintings. The paper takes the features of an Inception
        network trained on paintings; a value in other features is another number and must name them.
    """
    return (1.0 + lpips) * (1.0 + frechet)
