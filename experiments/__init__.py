"""Experiments: ``python -m experiments.NAME``."""

from vision.stopping import install_for_programs

install_for_programs()  # before the imports that take seconds
