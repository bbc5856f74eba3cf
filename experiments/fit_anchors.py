"""Say how well the anchors of a detection experiment fit its data, and find ones that fit better.

    python -m experiments.fit_anchors yolo_folder --data.dir my_data

Options are those of the experiment. Prints a report on its anchors, one on those that k-means and random changes find
(`vision.data.annotations.anchors`), and the option that uses them. A minute; nothing is trained.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from vision.data.annotations.anchors import anchor_report, fit_anchors
from vision.data.detection import box_sizes, ground_truth
from vision.errors import UserError
from vision.launch.options import parse

EXPERIMENTS = ("yolo_coco", "yolo_voc", "yolo_bccd", "yolo_folder")


def main(arguments: Sequence[str]) -> int:
    """Print both reports."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    name, *options = arguments
    try:
        if name not in EXPERIMENTS:
            raise UserError(f"there is no detection experiment {name}: choose one of {', '.join(EXPERIMENTS)}")
        module = importlib.import_module(f"experiments.{name}")
        words = {"default": module.Config(), "quick": module.QUICK, "description": __doc__ or ""}
        config: Any = parse(f"python -m experiments.fit_anchors {name}", arguments=options, **words).config
        print(ground_truth(config.data, "train").counts)
        sizes = box_sizes(config.data)
        print(f"now: {anchor_report(sizes, config.model.anchor_levels.reshape(-1, 2))}", flush=True)
        fitted = fit_anchors(sizes, len(config.model.anchors) // 2, seed=config.seed)
        print(f"fitted: {anchor_report(sizes, fitted)}")
        print("--model.anchors " + " ".join(f"{side:.1f}" for side in fitted.reshape(-1).tolist()))
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
