"""A Mask R-CNN for tests: few channels, of which none begins at zero, and anchors for images of 64 pixels."""

from dataclasses import replace

from vision.recipes.panoptic import TINY_MASK_RCNN

TINY = replace(TINY_MASK_RCNN, classes=3, pixels="imagenet")
