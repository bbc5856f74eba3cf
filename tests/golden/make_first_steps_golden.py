"""Writes tests/golden/first_steps.json: two steps of every experiment, tiny.

    python tests/golden/make_first_steps_golden.py

The values of the first version equal those before recipes moved into the package, to the last bit.
"""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "experiments")]
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

import conftest  # noqa: E402, F401 - the environment of tests
from test_every_experiment import MODULES, first_steps  # noqa: E402

if __name__ == "__main__":
    found = {name: first_steps(module) for name, module in MODULES.items()}
    (ROOT / "tests" / "golden" / "first_steps.json").write_text(json.dumps(found, indent=1) + "\n")
