"""Say how well the anchors of a YOLO fit the data of its experiment, and find ones that fit better.

    python -m experiments.fit_anchors yolo_folder --data.dir my_data

Options are those of the experiment. Prints a report on its anchors, one on those that k-means and random changes find
(`vision.data.annotations.anchors`), and the option that uses them. A minute; nothing is trained.
"""

import sys
from collections.abc import Sequence
from typing import Any

from vision.data.annotations.anchors import anchor_report, fit_anchors
from vision.data.detection import box_sizes, ground_truth
from vision.errors import UserError
from vision.launch.exit_code import exit_code
from vision.launch.experiment_module import find_experiment
from vision.models.yolo import YoloConfig
from vision.recipes.instance_methods import Prototypes

EXPERIMENTS = (
    *("yolo_coco", "yolo_voc", "yolo_bccd", "yolo_folder"),
    *("instances_coco", "instances_folder", "instances_nuclei"),
)


def main(arguments: Sequence[str]) -> int:
    """Print both reports; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    return exit_code(lambda: report(arguments[0], arguments[1:]))


def report(name: str, options: Sequence[str]) -> None:
    """Print how well an experiment's anchors fit its data, and which fit better."""
    config = find_experiment(name, among=EXPERIMENTS, kind="detection experiment").parse(options).config
    print(ground_truth(config.data, "train").counts)
    sizes = box_sizes(config.data)
    model, option = detector(config)
    print(f"now: {anchor_report(sizes, model.anchor_levels.reshape(-1, 2))}", flush=True)
    fitted = fit_anchors(sizes, len(model.anchors) // 2, seed=config.seed)
    print(f"fitted: {anchor_report(sizes, fitted)}")
    print(f"{option} " + " ".join(f"{size:.1f}" for size in fitted.reshape(-1).tolist()))


def detector(config: Any) -> tuple[YoloConfig, str]:
    """The YOLO of an experiment, and the option of its anchors. Raises ``UserError`` where there is none."""
    if not hasattr(config, "method"):
        return config.model, "--model.anchors"
    if not isinstance(config.method, Prototypes):
        raise UserError("these anchors are no choice of the data: name a method with prototypes, --method prototypes_n")
    return config.method.model.yolo, "--method.model.yolo.anchors"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
