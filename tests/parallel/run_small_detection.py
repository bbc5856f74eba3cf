"""Evaluates a detector that does not depend on weights, and looks at files, as one of several processes.

Arguments: address of the coordinator, number of processes, place of this one, folder for what was found.
"""

import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from vision.data.detection import DetectionConfig, detection_source, ground_truth
from vision.data.pipeline import evaluation_batches
from vision.data.shapes.world import ShapesConfig
from vision.evaluation.detection import DetectionSet, PredictionConfig, evaluator, predict_files
from vision.parallel.mesh import MeshConfig, make_mesh
from vision.parallel.processes import ProcessOptions, start
from vision.tasks.detection import Detections, DetectorConfig
from vision.train.compile import Compiler

SIDE = 32
WORLD = DetectionConfig(
    resolution=SIDE, max_boxes=8, overfit_images=13, shapes=ShapesConfig(max_objects=4, min_size=0.25, max_size=0.5)
)


def detect(variables, images):
    """Boxes around the middle, the surer the brighter the image."""
    count = len(images)
    bright = images.astype(jnp.float32).mean((1, 2, 3)) / 255
    boxes = jnp.array([[4.0, 4.0, 28.0, 28.0], [8.0, 8.0, 20.0, 20.0], [16.0, 12.0, 28.0, 28.0]])
    scores = bright[:, None] * jnp.array([0.9, 0.6, 0.3])
    labels = jnp.broadcast_to(jnp.arange(3) + variables["first"], (count, 3))
    return Detections(jnp.broadcast_to(boxes, (count, 3, 4)), scores, labels, jnp.ones((count, 3), bool))


def found(folder):
    """(scalars, names of images, lines about files), as this process sees them; files go to ``folder``."""
    compiler = Compiler(make_mesh(MeshConfig()))
    variables = compiler.replicate({"first": np.int32(0)})
    source = detection_source(WORLD, "test")
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    test = DetectionSet(
        lambda: evaluation_batches(source, batch_size=8, **share), lambda: ground_truth(WORLD, "test"), SIDE, "toys"
    )
    made = evaluator(compiler, detect, DetectorConfig())(variables, test)
    files = [folder / name for name in ("dark.png", "none.png", "light.png")]
    predict = predict_files(
        compiler, detect, PredictionConfig(), class_names=source.class_names, resolution=SIDE, batch_size=2
    )
    lines = predict(variables, files, folder / f"of-{jax.process_index()}")
    return dict(made.scalars), sorted(made.images), lines[:-1]


def write_files(folder):
    """Two images and a file that is none."""
    Image.new("RGB", (40, 30), (50, 50, 50)).save(folder / "dark.png")
    Image.new("RGB", (50, 70), (250, 250, 250)).save(folder / "light.png")
    (folder / "none.png").write_text("no image")


if __name__ == "__main__":
    address, count, index, place = sys.argv[1:]
    start(ProcessOptions(coordinator=address, count=int(count), index=int(index)), os.environ)
    (Path(place) / f"{index}.json").write_text(json.dumps(found(Path(place))))
