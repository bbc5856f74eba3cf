"""Make mask_rcnn.npz with torchvision, in an environment of its own; no test needs PyTorch.

    pip install torch && pip install --no-deps torchvision pillow numpy
    python tests/golden/make_mask_rcnn_golden.py

What a small Mask R-CNN of torchvision proposes, detects and loses in float64, with weights by a formula
(tests/pretrained/mask_rcnn_scene.py); its parts by themselves; and the names and shapes of its published networks.
torchvision's compiled operators are replaced by slow ones written here from their definitions.
"""
# ruff: noqa: E402 - torchvision's compiled operators are declared before it is imported

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "pretrained"))
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor a, Tensor b, float c) -> Tensor")

import torchvision.models.detection as detection
import torchvision.ops
from mask_rcnn_scene import ANCHORS, BOXES, CLASSES, LABELS, SIZES, masks, pixels, weight
from published_weights import uniform
from torchvision.models import resnet
from torchvision.models.detection import _utils, roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, poolers


def slow_roi_align(features, rois, output_size, spatial_scale=1.0, sampling_ratio=-1, aligned=False):
    """RoIAlign one box after another, by the definition of the compiled operator."""
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    height, width = features.shape[2:]

    def axis(low, high, bins, extent):
        side = high - low if aligned else torch.clamp(high - low, min=1.0)
        count = sampling_ratio if sampling_ratio > 0 else math.ceil(side / bins)
        place = low + (torch.arange(bins * count, dtype=features.dtype) + 0.5) * side / (bins * count)
        inside = (place >= -1) & (place <= extent)
        place = place.clamp(0, extent - 1)
        first = place.floor().long()
        return count, inside, first, (first + 1).clamp(max=extent - 1), place - first

    made = []
    for image, *box in rois:
        x0, y0, x1, y1 = (side * spatial_scale - (0.5 if aligned else 0.0) for side in box)
        of_y, inside_y, low_y, high_y, part_y = axis(y0, y1, rows, height)
        of_x, inside_x, low_x, high_x, part_x = axis(x0, x1, columns, width)
        own = features[int(image)]
        line = own[:, low_y] * (1 - part_y)[:, None] + own[:, high_y] * part_y[:, None]
        points = line[:, :, low_x] * (1 - part_x) + line[:, :, high_x] * part_x
        points = points * (inside_y[:, None] & inside_x)
        made.append(points.reshape(-1, rows, of_y, columns, of_x).mean((2, 4)))
    return torch.stack(made) if made else features.new_zeros((0, features.shape[1], rows, columns))


def slow_nms(boxes, scores, iou_threshold):
    """Greedy suppression."""
    kept = []
    overlaps = torchvision.ops.box_iou(boxes, boxes)
    for k in scores.argsort(descending=True, stable=True).tolist():
        if all(overlaps[k, j] <= iou_threshold for j in kept):
            kept.append(k)
    return torch.tensor(kept, dtype=torch.long)


poolers.roi_align = roi_heads.roi_align = slow_roi_align
torchvision.ops.boxes.nms = slow_nms


def network(train):
    """A Mask R-CNN with few channels; in training all anchors and all proposals are sampled."""
    body = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], width_per_group=8, norm_layer=FrozenBatchNorm2d)
    levels = {f"layer{k + 1}": str(k) for k in range(4)}
    backbone = BackboneWithFPN(body, levels, [256, 512, 1024, 2048], 16)
    everything = {"box_batch_size_per_image": 10**6, "box_positive_fraction": 1.0}
    everything |= {"rpn_batch_size_per_image": 10**6, "rpn_positive_fraction": 1.0}
    model = MaskRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in ANCHORS), ((0.5, 1.0, 2.0),) * 5),
        box_head=TwoMLPHead(16 * 49, 24),
        box_predictor=FastRCNNPredictor(24, CLASSES + 1),
        mask_head=MaskRCNNHeads(16, (16, 16), 1),
        mask_predictor=MaskRCNNPredictor(16, 16, CLASSES + 1),
        rpn_pre_nms_top_n_train=40,
        rpn_post_nms_top_n_train=30,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=40,
        box_nms_thresh=0.1,
        box_detections_per_img=6,
        **(everything if train else {}),
    )
    _utils.overwrite_eps(model, 0.0)
    state = {name: torch.from_numpy(weight(name, tuple(array.shape))) for name, array in model.state_dict().items()}
    state = {name: array for name, array in state.items() if "fc." not in name or "roi_heads" in name}
    model.load_state_dict(state, strict=False)
    return model.train(train)


def run(dtype, train, targets=None):
    """Proposals, and detections or losses, without the resizing of images."""
    model = network(train).to(dtype)
    images = ImageList(torch.from_numpy(pixels()).permute(0, 3, 1, 2).to(dtype), list(SIZES))
    features = model.backbone(images.tensors)
    proposals, losses = model.rpn(images, features, targets)
    found, more = model.roi_heads(features, proposals, images.image_sizes, targets)
    return model, proposals, found, losses | more


arrays = {}
with torch.no_grad():
    _, proposals, found, _ = run(torch.float64, False)
    _, single, single_found, _ = run(torch.float32, False)
for image in range(2):
    assert len(proposals[image]) == 40
    assert len(found[image]["boxes"]) == 6
    # No choice hangs on a rounding error
    assert (proposals[image] - single[image]).abs().max() < 1e-2
    arrays[f"proposals_{image}"] = proposals[image].numpy()
    for name in ("boxes", "scores", "labels", "masks"):
        array = found[image][name].numpy()
        apart = np.abs(array - single_found[image][name].numpy()).max()
        print(image, name, np.unique(array)[:9], array.max(), "float32 differs by", apart)
        assert apart < 1e-2
        arrays[f"{name}_{image}"] = array.astype(np.float32)

truth = torch.from_numpy(masks())
empty = {
    "boxes": torch.zeros(0, 4, dtype=torch.float64),
    "labels": torch.zeros(0, dtype=torch.long),
    "masks": truth[:0],
}
first = {"boxes": torch.from_numpy(BOXES).double(), "labels": torch.tensor(LABELS) + 1, "masks": truth}
model, _, _, losses = run(torch.float64, True, [first, empty])
sum(losses.values()).backward()
for name, value in losses.items():
    arrays[name] = value.detach().numpy()
    print(name, value.item())
gradients = {}
for name, parameter in model.named_parameters():
    if parameter.grad is not None:
        gradient = parameter.grad.numpy()
        gradients[name] = [float(np.linalg.norm(gradient)), float((gradient * uniform(name, gradient.shape)).sum())]
arrays["gradients"] = np.array(json.dumps(gradients))

# The losses by themselves
normal = lambda name, *shape: torch.from_numpy(2 * uniform(name, shape)).requires_grad_()
logits, offsets, targets = normal("logits", 10, 4), normal("offsets", 10, 16), normal("targets", 10, 4).detach()
labels = torch.arange(10) % 4
value = roi_heads.fastrcnn_loss(logits, offsets, [labels], [targets])
sum(value).backward()
arrays |= {"head_losses": np.array([each.item() for each in value])}
arrays |= {"logits_gradient": logits.grad.numpy(), "offsets_gradient": offsets.grad.numpy()}

objectness, anchors, wanted = normal("objectness", 12), normal("anchors", 12, 4), normal("wanted", 12, 4).detach()
state = torch.tensor([1.0, 0, 0, -1, 1, 0] * 2, dtype=torch.float64)
model.rpn.fg_bg_sampler = _utils.BalancedPositiveNegativeSampler(100, 0.5)
value = model.rpn.compute_loss(objectness, anchors, [state[:6], state[6:]], [wanted[:6], wanted[6:]])
sum(value).backward()
arrays |= {"region_losses": np.array([each.item() for each in value])}
arrays |= {"objectness_gradient": objectness.grad.numpy(), "anchors_gradient": anchors.grad.numpy()}

regions = torch.tensor([[10.0, 20, 100, 110], [60, 40, 230.5, 170.25], [0, 100, 60, 199], [80, 0, 83, 2]]).double()
index = torch.tensor([0, 1, 3, 2])
logits = normal("masks", 4, CLASSES + 1, 28, 28)
value = roi_heads.maskrcnn_loss(logits, [regions], [truth], [first["labels"]], [index])
value.backward()
chosen = logits.grad[torch.arange(4), first["labels"][index]]
assert torch.count_nonzero(logits.grad) == torch.count_nonzero(chosen)
arrays |= {"mask_loss": value.detach().numpy(), "mask_gradient": chosen.numpy().astype(np.float32)}
arrays["mask_targets"] = roi_heads.project_masks_on_boxes(truth, regions, index, 28).numpy().astype(np.float32)

# Matching, of boxes that are corners and sides on a coarse grid, so that equal overlaps occur
corners = np.round(4 * (uniform("corners", (60, 2)) + 1))
some = np.concatenate([corners, corners + 1 + np.round(2 * (uniform("sides", (60, 2)) + 1))], 1)
overlap = torchvision.ops.box_iou(torch.from_numpy(some[:5]), torch.from_numpy(some[5:]))
arrays |= {"match_boxes": some, "match_closest": _utils.Matcher(0.7, 0.3, True)(overlap).numpy()}
arrays["match_plain"] = _utils.Matcher(0.5, 0.5)(overlap).numpy()

generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
grids = [torch.zeros(1, 1, math.ceil(160 / stride), math.ceil(96 / stride)) for stride in (4, 8, 16, 32, 64)]
arrays["anchors"] = generator(ImageList(torch.zeros(1, 3, 160, 96), [(160, 96)]), grids)[0].numpy().astype(np.int16)

frames = torch.tensor([[5.3, 7.9, 30.2, 28.7], [-6.5, 20.1, 12.4, 44.9], [31.0, 3.0, 31.4, 3.2]])
probability = torch.from_numpy((uniform("paste", (3, 1, 28, 28)) + 1) / 2).float()
arrays["pasted"] = roi_heads.paste_masks_in_image(probability, frames, (36, 44))[:, 0].numpy()
arrays["pasted_boxes"] = frames.numpy()

for name in ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"):
    with torch.device("meta"):
        large = getattr(detection, name)(weights=None, weights_backbone=None)
    print(name, sum(parameter.numel() for parameter in large.parameters()))
    arrays[name] = np.array(json.dumps({k: tuple(v.shape) for k, v in large.state_dict().items()}))
np.savez_compressed(HERE / "mask_rcnn.npz", **arrays)
print((HERE / "mask_rcnn.npz").stat().st_size)
