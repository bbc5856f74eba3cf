"""A line through points.

The experiment of line_experiment.py, where ``python -m vision`` finds it by name.
"""

from dataclasses import replace

from line_experiment import SIZE, Config, Hooks, make_build

QUICK = replace(Config(), images=2 * SIZE)
build = make_build(Hooks())
