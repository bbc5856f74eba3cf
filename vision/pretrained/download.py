"""Files of published weights: where their publishers offer them, and how they come from there.

Nothing else in this project reads from the network, and this only when it is asked to (``python -m vision download``).
The table is shown, with licences and commands, in docs/weights.md.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vision.errors import UserError

_TORCHVISION = "https://download.pytorch.org/models/"
_DEIT = "https://dl.fbaipublicfiles.com/deit/"
_CONVNEXT = "https://dl.fbaipublicfiles.com/convnext/"
_CHUNK = 2**20


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights."""

    url: str
    """The publisher's address."""
    options: str
    """The network, as options of a command name it; "" where they are the command's defaults."""
    stated: float
    """What its publisher states, in per cent; not measured here. Of classifiers the accuracy on ImageNet's validation
    set, of segmentation networks the mean IoU, and of detectors the AP of boxes on that of COCO."""
    resize: int = 256
    """Of classifiers: shorter side before the centre of 224 pixels is cropped, as its publisher evaluates it."""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first eight digits of the file's SHA-256, which end its name before the suffix; "" where they do not."""
        digits = Path(self.name).stem.rpartition("-")[2]
        return digits if len(digits) == 8 and set(digits) <= set("0123456789abcdef") else ""


CLASSIFIERS: Mapping[str, PublishedFile] = {
    "resnet18": PublishedFile(f"{_TORCHVISION}resnet18-f37072fd.pth", "--model resnet18", 69.758),
    "resnet34": PublishedFile(f"{_TORCHVISION}resnet34-b627a593.pth", "--model resnet34", 73.314),
    "resnet50": PublishedFile(f"{_TORCHVISION}resnet50-11ad3fa6.pth", "--model resnet50", 80.858, 232),
    "resnet50_v1": PublishedFile(f"{_TORCHVISION}resnet50-0676ba61.pth", "--model resnet50", 76.130),
    "resnet101": PublishedFile(f"{_TORCHVISION}resnet101-cd907fc2.pth", "--model resnet101", 81.886, 232),
    "resnet152": PublishedFile(f"{_TORCHVISION}resnet152-f82ba261.pth", "--model resnet152", 82.284, 232),
    "resnext50_32x4d": PublishedFile(
        f"{_TORCHVISION}resnext50_32x4d-1a0047aa.pth", "--model resnext50_32x4d", 81.198, 232
    ),
    "wide_resnet50_2": PublishedFile(
        f"{_TORCHVISION}wide_resnet50_2-9ba9bcbe.pth", "--model wide_resnet50_2", 81.602, 232
    ),
    "convnext_tiny": PublishedFile(f"{_TORCHVISION}convnext_tiny-983f1562.pth", "--model convnext_tiny", 82.520, 236),
    "convnext_small": PublishedFile(
        f"{_TORCHVISION}convnext_small-0c510722.pth", "--model convnext_small", 83.616, 230
    ),
    "convnext_base": PublishedFile(f"{_TORCHVISION}convnext_base-6075fbad.pth", "--model convnext_base", 84.062, 232),
    "convnext_large": PublishedFile(
        f"{_TORCHVISION}convnext_large-ea097f82.pth", "--model convnext_large", 84.414, 232
    ),
    "convnext_xlarge": PublishedFile(f"{_CONVNEXT}convnext_xlarge_22k_1k_224_ema.pth", "--model convnext_xlarge", 87.0),
    "mobilenet_v2": PublishedFile(f"{_TORCHVISION}mobilenet_v2-7ebf99e0.pth", "--model mobilenet_v2", 72.154, 232),
    "mobilenet_v2_v1": PublishedFile(f"{_TORCHVISION}mobilenet_v2-b0353104.pth", "--model mobilenet_v2", 71.878),
    "vgg16": PublishedFile(f"{_TORCHVISION}vgg16-397923af.pth", "--model vgg16", 71.592),
    "vgg19": PublishedFile(f"{_TORCHVISION}vgg19-dcbb9e9d.pth", "--model vgg19", 72.376),
    "vit_ti16": PublishedFile(f"{_DEIT}deit_tiny_patch16_224-a1311bcf.pth", "--model vit_ti16", 72.2),
    "vit_s16": PublishedFile(f"{_DEIT}deit_small_patch16_224-cd65a155.pth", "--model vit_s16", 79.9),
    "vit_b16": PublishedFile(f"{_TORCHVISION}vit_b_16-c867db91.pth", "--model vit_b16", 81.072),
    "vit_b32": PublishedFile(f"{_TORCHVISION}vit_b_32-d86f8d99.pth", "--model vit_b32", 75.912),
    "vit_l16": PublishedFile(f"{_TORCHVISION}vit_l_16-852ce7e3.pth", "--model vit_l16", 79.662, 242),
}
"""Networks that were trained on ImageNet."""

SEGMENTERS: Mapping[str, PublishedFile] = {
    "fcn_resnet50": PublishedFile(
        f"{_TORCHVISION}fcn_resnet50_coco-1167a1af.pth", "--decoder fcn --backbone resnet50 --classes 21", 60.5
    ),
    "fcn_resnet101": PublishedFile(
        f"{_TORCHVISION}fcn_resnet101_coco-7ecb50ca.pth", "--decoder fcn --backbone resnet101 --classes 21", 63.7
    ),
    "deeplabv3_resnet50": PublishedFile(
        f"{_TORCHVISION}deeplabv3_resnet50_coco-cd0a2569.pth",
        "--decoder deeplab_v3 --backbone resnet50 --classes 21",
        66.4,
    ),
    "deeplabv3_resnet101": PublishedFile(
        f"{_TORCHVISION}deeplabv3_resnet101_coco-586e9e4e.pth",
        "--decoder deeplab_v3 --backbone resnet101 --classes 21",
        67.4,
    ),
}
"""Semantic segmentation of the 21 classes of PASCAL VOC, trained on images of COCO that have them."""

DETECTORS: Mapping[str, PublishedFile] = {
    "fasterrcnn_resnet50_fpn": PublishedFile(f"{_TORCHVISION}fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "", 37.0),
    "maskrcnn_resnet50_fpn": PublishedFile(
        f"{_TORCHVISION}maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        "--method.model.norm-epsilon 0 --method.detector.rounded-boxes",
        37.9,
    ),
}
"""Region-based detectors of COCO's classes."""

FILES: Mapping[str, PublishedFile] = {**CLASSIFIERS, **SEGMENTERS, **DETECTORS}
"""Files by the names that ``python -m vision download`` takes."""


def download(file: PublishedFile, folder: Path, *, report: Callable[[str], None] = lambda text: None) -> str:
    """Bring ``file`` into ``folder``, where it appears when it is complete and its SHA-256 is right.

    A download that was interrupted is continued. A file that is there already is only checked.

    Args:
      file: what to bring.
      folder: where to; made if there is none.
      report: called with a line about what is done.

    Returns:
      the file's whole SHA-256 in hexadecimal digits.

    Raises:
      UserError: the address cannot be reached, the connection ends early, or the content is not what was published.
    """
    place, part = folder / file.name, folder / f".{file.name}.part"
    if place.exists():
        report(f"{place} is there already")
        return _checked(place, file, remove=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fetch(file.url, part, report)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{file.url} is refused ({error.code} {error.reason}): fetch the file by another way"
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{file.url} cannot be reached ({reason}): check the network and run the same command again, which "
            "continues, or fetch the file elsewhere"
        ) from error
    sum_ = _checked(part, file, remove=True)
    part.replace(place)
    return sum_


def _fetch(url: str, part: Path, report: Callable[[str], None]) -> None:
    """Append to ``part`` what it lacks of the content at ``url``."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not there:
            raise
        part.unlink()  # longer than the content, or complete and wrong
        _fetch(url, part, report)
        return
    with response:
        continued = there > 0 and response.status == 206
        there = there if continued else 0
        length = response.headers.get("Content-Length")
        whole = there + int(length) if length is not None else None
        report(f"{url}: {f'{whole / 1e6:.1f} MB' if whole else 'size unknown'}{', continued' if continued else ''}")
        with part.open("ab" if continued else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                there += len(chunk)
    if whole is not None and there < whole:
        raise UserError(
            f"{url} ended after {there:,} of {whole:,} bytes: run the same command again, which continues there"
        )


def _checked(path: Path, file: PublishedFile, *, remove: bool) -> str:
    """The SHA-256 of a file; raises ``UserError`` where it does not begin as it should."""
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(file.sha256):
        if remove:
            path.unlink()
        raise UserError(
            f"{path if not remove else file.url} is not what was published: its SHA-256 begins with {found[:8]}, not "
            f"{file.sha256}: {'run the same command again' if remove else 'remove the file and fetch it again'}"
        )
    return found
