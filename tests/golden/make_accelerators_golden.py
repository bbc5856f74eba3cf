"""Writes tests/golden/accelerators.json: memory and exchange of training steps, compiled for accelerators.

    python tests/golden/make_accelerators_golden.py rows.jsonl

Needs the extras tpu and cuda12, and no accelerator; takes half an hour on two cores. The file is one of
``benchmarks/slices.py``: what it has already is not compiled again.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.slices import fill, read  # noqa: E402

EXPERIMENTS = ("diffusion_cifar", "dit_cifar", "resnet_imagenet", "yolo_coco", "gan_cifar")
SLICES = ("h100:8/2x4", "v5e:4x4/4x4")
KEPT = ("versions", "batch", "memory", "exchange", "sums")

if __name__ == "__main__":
    file = Path(sys.argv[1])
    fill(file, SLICES, EXPERIMENTS, (), 7200.0)
    found = {
        f"{row['experiment']} {row['slice']}": {name: row[name] for name in KEPT}
        for row in read(file)
        if row["experiment"] in EXPERIMENTS and row["slice"] in SLICES and not row["options"]
    }
    path = ROOT / "tests" / "golden" / "accelerators.json"
    path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
