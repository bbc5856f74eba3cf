"""Computer vision in JAX: models that recognise and generate images, as pure functions."""

from vision.stopping import install_for_programs

install_for_programs()  # before the imports that take seconds
