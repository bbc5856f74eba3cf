"""Make the golden values of segmentation metrics with public packages, in an environment of its own.

    pip install torch torchmetrics opencv-python-headless pycocotools matplotlib
    pip install git+https://github.com/cocodataset/panopticapi git+https://github.com/bowenc0221/boundary-iou-api
    python tests/golden/make_segmentation_metrics_golden.py

Writes segmentation_metrics.npz beside itself, of the maps of tests/metrics/segmentation_maps.py: IoU and accuracies of
torchmetrics, panoptic quality of panopticapi, boundaries and boundary AP of boundary_iou.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from boundary_iou.coco_instance_api.coco import COCO
from boundary_iou.coco_instance_api.cocoeval import COCOeval
from boundary_iou.utils.boundary_utils import mask_to_boundary
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "metrics"))
from segmentation_maps import CLASSES, VOID, instance_set, masks, panoptic_pair, semantic_maps  # noqa: E402

np.float = float  # boundary_iou is older than numpy 1.20, which has lost the name
values = {}

predicted, truth = (torch.from_numpy(of).long() for of in semantic_maps(0))
for name, metric in {
    "mean_iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID),
    "class_iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID, average="none"),
    "frequency_weighted_iou": MulticlassJaccardIndex(CLASSES, ignore_index=VOID, average="weighted"),
    "pixel_accuracy": MulticlassAccuracy(CLASSES, ignore_index=VOID, average="micro"),
    "class_accuracy": MulticlassAccuracy(CLASSES, ignore_index=VOID, average="none"),
}.items():
    values[name] = metric.double()(predicted, truth).numpy()

categories = {label: {"id": label, "isthing": int(label < 2)} for label in range(CLASSES)}
with tempfile.TemporaryDirectory() as folder:
    pairs = []
    for seed in range(60):
        each = []
        for kind, of in zip(("found", "true"), panoptic_pair(seed), strict=True):
            name = f"{kind}{seed}.png"
            Image.fromarray(id2rgb(of["map"])).save(Path(folder) / name)
            info = [
                {"id": int(i), "category_id": int(label), "iscrowd": int(crowd), "area": int((of["map"] == i).sum())}
                for i, label, crowd in zip(of["ids"], of["labels"], of["crowd"], strict=True)
            ]
            each.append({"image_id": seed, "file_name": name, "segments_info": info})
        pairs.append(tuple(reversed(each)))
    with contextlib.redirect_stdout(io.StringIO()):
        stat = pq_compute_single_core(0, pairs, folder, folder, categories)
assert isinstance(stat, PQStat)
for name in ("iou", "tp", "fp", "fn"):
    values[f"panoptic_{name}"] = np.array([getattr(stat[label], name) for label in range(CLASSES)])
for group, isthing in {"all": None, "things": True, "stuff": False}.items():
    average, _ = stat.pq_average(categories, isthing)
    values[f"panoptic_{group}"] = np.array([average[name] for name in ("pq", "sq", "rq")])

for ratio in (0.005, 0.02, 0.1):
    values[f"boundaries_{ratio}"] = np.stack(
        [mask_to_boundary(mask.astype(np.uint8), ratio).astype(bool) for mask in masks(0)]
    )

with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    dataset, results = instance_set(0)
    (Path(folder) / "truth.json").write_text(json.dumps(dataset))
    (Path(folder) / "results.json").write_text(json.dumps(results))
    coco = COCO(str(Path(folder) / "truth.json"), get_boundary=True)
    evaluator = COCOeval(coco, coco.loadRes(str(Path(folder) / "results.json")), "boundary")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
values["boundary_ap"] = evaluator.stats

np.savez_compressed(HERE / "segmentation_metrics.npz", **values)
print({name: of if of.size < 16 else of.shape for name, of in values.items()})
