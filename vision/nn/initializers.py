"""Initializers that Flax does not have."""

import flax.linen as nn

# He et al. 2015, "Delving Deep into Rectifiers", equation 14: the variance of gradients is kept
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# U(-1/sqrt(n), 1/sqrt(n)) for n inputs, the initialization of published networks trained with PyTorch
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
