"""A Mask R-CNN for tests: few channels, of which none begins at zero, and anchors for images of 64 pixels."""

from vision.models.instances.mask_rcnn import MaskRcnnConfig
from vision.models.resnet import ResNetConfig

TINY = MaskRcnnConfig(
    classes=3,
    backbone=ResNetConfig(depths=(1, 1, 1, 1), block="basic", width=8, zero_init=False),
    norm="batch",
    channels=8,
    box_width=16,
    mask_width=8,
    mask_depth=1,
    anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
)
