"""The linear probe: multinomial logistic regression on frozen features, solved to convergence.

A deterministic measure of features (Radford et al. 2021, "Learning transferable visual models from natural language
supervision", appendix A.3): no learning rate, no schedule, no augmentation; L-BFGS finds the only minimum, and the
strength of the penalty is chosen on a held-out part of the training images. Features are standardised with the
statistics of the images that are fitted.

The objective, with standardised features x and weights W [d k], b [k]:

    (1 / n) sum_i -log softmax(x_i W + b)[y_i] + (penalty / 2) |W|^2

All of it is float64 on the host. In float32 the line search cannot tell the decreases near the minimum from rounding
and stops at gradients of 1e-5 to 1e-4, which for weak penalties is far from the minimum. The standardised features
take 8 n d bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import MinLen
from jaxtyping import Array, Float, Int

from vision.errors import UserError
from vision.ranges import OpenFraction, PositiveFloat, PositiveInt, Seed, check_ranges


@dataclass(frozen=True)
class LinearProbeConfig:
    """How a probe is fitted. Raises `UserError` for invalid values."""

    penalties: Annotated[tuple[PositiveFloat, ...], MinLen(1)] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """The grid of penalties; the one with the highest held-out accuracy is chosen, among equals that with the lowest
    held-out cross-entropy. With a single penalty nothing is held out."""
    held_out: OpenFraction = 0.2
    """Share of the training images of each class on which the penalty is chosen."""
    seed: Seed = 0
    """Seed of the choice of held-out images."""
    iterations: PositiveInt = 1000
    """Maximum number of iterations of L-BFGS for each penalty."""
    tolerance: PositiveFloat = 1e-6
    """L-BFGS ends when no entry of the gradient is larger. The objective is then at most |gradient|^2 / (2 penalty)
    above its minimum, since it is strongly convex."""

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """A fitted classifier of features, float64 on the host."""

    mean: Float[np.ndarray, " d"]
    """Subtracted from features."""
    scale: Float[np.ndarray, " d"]
    """Divisor of the centred features; 1 for constant features."""
    weights: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]
    penalty: float
    """The penalty it was fitted with."""
    gradient: float
    """The largest entry of the gradient where L-BFGS ended, in absolute value."""
    iterations: int
    """Iterations that L-BFGS took."""

    def logits(self, features: Float[Array | np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Unnormalised log-probabilities in float64."""
        standardised = (np.asarray(features, np.float64) - self.mean) / self.scale
        return standardised @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The result of `linear_probe`."""

    classifier: LinearClassifier
    """Fitted on all training images with the chosen penalty."""
    accuracy: float
    """Fraction of the test images that it gets right."""
    held_out_accuracy: dict[float, float]
    """For each penalty, the accuracy on the held-out part; empty where only one penalty was given."""

    def protocol(self, training_images: int) -> str:
        """A description of the accuracy, for the protocol."""
        among = len(self.held_out_accuracy)
        chosen = f"chosen among {among} on held-out training images" if among else "given"
        return (
            f"logistic regression on standardised frozen features of {training_images:,} training images, "
            f"L2 penalty {self.classifier.penalty:g} ({chosen}), L-BFGS to a gradient of {self.classifier.gradient:.1e}"
        )


def fit(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    *,
    classes: int,
    penalties: tuple[float, ...],
    iterations: int = 1000,
    tolerance: float = 1e-6,
) -> dict[float, LinearClassifier]:
    """The minimum of the objective for each penalty.

    Penalties are taken from the strongest to the weakest, each from the solution of the one before: the path is short,
    and one program serves all.

    Args:
      features: finite; standardised here.
      labels: in [0, classes).
      classes: number of classes; those without images get a probability near 0.
      penalties: all above 0.
      iterations: maximum number of iterations for each penalty.
      tolerance: the largest entry of the gradient at which a minimum is found.

    Raises:
      UserError: there are no images, a feature is not finite, or a label is not a class.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    if len(features) == 0:
        raise UserError("a linear probe needs images to be fitted on; there are none")
    if bad := int(np.sum(~np.isfinite(features).all(-1))):
        raise UserError(f"{bad:,} images have features that are not finite: look for an overflow in the model")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"labels lie outside [0, {classes}): give the number of all classes")
    from scipy.optimize import minimize  # takes half of a second to import, which no start should wait for

    mean, scale = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    # A constant feature has a deviation of a few units in the last place, not of 0
    constant = scale <= 1e-6 * np.abs(mean)
    scale = np.where(constant, 1.0, scale)
    standardised = np.where(constant, 0.0, (features - mean) / scale)
    objective = _objective(standardised, labels, classes)
    width = features.shape[1]
    at = np.zeros((width + 1) * classes)
    solutions = {}
    for penalty in sorted(set(penalties), reverse=True):
        result = minimize(
            lambda flat, penalty=penalty: objective(flat, penalty),
            at,
            jac=True,
            method="L-BFGS-B",
            # Only the gradient decides when to stop, hence ftol 0
            options={"maxiter": iterations, "maxfun": 4 * iterations, "gtol": tolerance, "ftol": 0.0, "maxcor": 20},
        )
        at = result.x
        table = at.reshape(width + 1, classes)
        gradient = float(np.abs(result.jac).max())
        solutions[penalty] = LinearClassifier(mean, scale, table[:-1], table[-1], penalty, gradient, int(result.nit))
    return solutions


def linear_probe(
    features: Float[Array | np.ndarray, "n d"],
    labels: Int[Array | np.ndarray, " n"],
    test_features: Float[Array | np.ndarray, "m d"],
    test_labels: Int[Array | np.ndarray, " m"],
    *,
    classes: int,
    config: LinearProbeConfig | None = None,
) -> LinearProbe:
    """Choose the penalty on a held-out part of the training images, fit on all of them, evaluate on the test images.

    Args:
      features: of the training images, finite.
      labels: of the training images, in [0, classes).
      test_features: of the test images.
      test_labels: of the test images.
      classes: number of classes.
      config: the grid of penalties and how far to go.

    Raises:
      UserError: as for `fit`; there are no test images; or no class has enough images to hold some out.
    """
    config = config or LinearProbeConfig()
    features, labels, test_labels = np.asarray(features), np.asarray(labels), np.asarray(test_labels)
    if len(test_labels) == 0:
        raise UserError("a linear probe needs test images to be evaluated on; there are none")
    penalty, accuracies = config.penalties[0], {}
    if len(config.penalties) > 1:
        held_out = held_out_part(labels, config.held_out, seed=config.seed)
        if not held_out.any():
            raise UserError(
                f"no penalty can be chosen: holding out {config.held_out:g} of every class leaves none of "
                f"{len(labels)} training images; give one penalty, or more images per class"
            )
        candidates = fit(
            features[~held_out],
            labels[~held_out],
            classes=classes,
            penalties=config.penalties,
            iterations=config.iterations,
            tolerance=config.tolerance,
        )
        marks = {p: _marks(candidates[p], features[held_out], labels[held_out]) for p in config.penalties}
        penalty = max(config.penalties, key=marks.__getitem__)
        accuracies = {p: mark[0] for p, mark in marks.items()}
    classifier = fit(
        features,
        labels,
        classes=classes,
        penalties=(penalty,),
        iterations=config.iterations,
        tolerance=config.tolerance,
    )[penalty]
    return LinearProbe(classifier, _marks(classifier, test_features, test_labels)[0], accuracies)


def held_out_part(labels: Int[np.ndarray, " n"], part: float, *, seed: int) -> np.ndarray:
    """Which images are held out, bool [n]: of each class the rounded ``part``, at random, and never all of it.

    A function of the labels and the seed; the numbers are raw output of a bit generator, whose stream numpy promises
    forever (NEP 19).
    """
    order = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = min(round(part * len(own)), len(own) - 1)
        chosen[own[np.argsort(order[own], kind="stable")[:count]]] = True
    return chosen


def _objective(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], classes: int
) -> Callable[[np.ndarray, float], tuple[float, np.ndarray]]:
    """(weights and bias in one flat array; penalty) -> the objective and its gradient."""
    n, width = features.shape
    rows = np.arange(n)

    def objective(flat: np.ndarray, penalty: float) -> tuple[float, np.ndarray]:
        table = flat.reshape(width + 1, classes)
        weights, bias = table[:-1], table[-1]
        logits = features @ weights + bias
        logits -= logits.max(1, keepdims=True)
        own = logits[rows, labels]
        errors = np.exp(logits, out=logits)
        normaliser = errors.sum(1)
        value = np.mean(np.log(normaliser) - own) + penalty / 2 * np.sum(weights**2)
        # The derivative of the mean cross-entropy by the logits: (p - y) / n
        errors /= normaliser[:, None]
        errors[rows, labels] -= 1
        errors /= n
        gradient = np.concatenate([features.T @ errors + penalty * weights, errors.sum(0, keepdims=True)])
        return float(value), gradient.ravel()

    return objective


def _marks(
    classifier: LinearClassifier, features: Float[Array | np.ndarray, "n d"], labels: Int[Array | np.ndarray, " n"]
) -> tuple[float, float]:
    """Accuracy, and the mean log-probability of the labels."""
    logits, labels = classifier.logits(features), np.asarray(labels)
    logits -= logits.max(1, keepdims=True)
    own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return float(np.mean(logits.argmax(1) == labels)), float(np.mean(own - np.log(np.exp(logits).sum(1))))
