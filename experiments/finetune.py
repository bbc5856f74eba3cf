"""Fine-tune a classifier on any folder of images, from any run of this project or from published weights.

A folder a class, a tenth of the images held out by name (or ``--data.test-dir``). The head is new where the classes
are others; AdamW with a short warm-up and a cosine, light augmentation. What to expect of published weights is in
Kornblith et al. 2019, "Do Better ImageNet Models Transfer Better?"; what was measured here is in docs/results.md.

    python -m experiments.finetune --quick                                        shapes world, from random weights
    python -m experiments.finetune --quick --model convnext_tiny                  a small relative of the network named
    python -m experiments.finetune --data.dir pets --init-from resnet50.safetensors --model.classes 37
    python -m experiments.finetune --data.dir pets --init-from runs/resnet_imagenet/default --model.classes 37
    python -m experiments.finetune --data.dir pets --init-from resnet50.safetensors --model.classes 37 \
        --optimizer.frozen '^(?!head/)' --loss.running-statistics                 the head alone, of any network
    python -m experiments.finetune --data.dir pets --model vit_b16 --init-from vit_b_16.safetensors \
        --model.classes 37                                                        a vision transformer
    python -m experiments.finetune --data.dir pets --init-from resnet50.safetensors --model.classes 37 \
        --optimizer.layer-decay 0.8 --data.labels-per-class 10                    few labels
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

from vision.data.augment.image import AugmentConfig
from vision.data.labelled import LabelledConfig
from vision.launch.about import About
from vision.launch.run import main
from vision.models.resnet import CIFAR_RESNET18, RESNET50
from vision.recipes.classification import ClassificationRunConfig, classification
from vision.recipes.classifiers import ClassifierConfig, chosen_by_name, network
from vision.recipes.quick_data import RECOGNITION, tiny, tiny_data
from vision.train.experiment import Experiment, Intervals
from vision.train.optimizer import OptimizerConfig

ABOUT = About(task="recognition", paper="Kornblith et al. 2019, arXiv:1805.08974", quick="1 minute")


@dataclass(frozen=True, kw_only=True)
class Config(ClassificationRunConfig):
    """The recipe."""

    model: ClassifierConfig = chosen_by_name(RESNET50)
    data: LabelledConfig = LabelledConfig(name="folder", resolution=224)
    imagenet_statistics: bool = True
    augment: AugmentConfig = AugmentConfig(flip=True, crop_scale=(0.5, 1.0))
    optimizer: OptimizerConfig = OptimizerConfig(name="adamw", lr=3e-4, weight_decay=0.05, warmup=2_000)
    intervals: Intervals = Intervals(log=1_000, evaluate=10_000, save=10_000)
    images: int = 50_000
    batch_size: int = 32
    ema: float = 0.99


QUICK = Config(
    model=replace(CIFAR_RESNET18, depths=(1, 1, 1), width=16, classes=36),
    data=RECOGNITION,
    imagenet_statistics=False,
    augment=AugmentConfig(flip=True, pad_crop=4),
    optimizer=OptimizerConfig(name="adamw", lr=2e-3, weight_decay=0.05, warmup=2_000),
    intervals=Intervals(log=4_000, evaluate=20_000, save=20_000),
    images=20_000,
)
TINY = tiny(QUICK, model=replace(QUICK.model, width=8, depths=(1,), classes=4), data=tiny_data(QUICK.data))

ABLATIONS: dict[str, dict[str, Any]] = {
    "head_alone": {"optimizer.frozen": (r"^(?!head/)",), "loss.running_statistics": True},
    "layer_decay": {"optimizer.layer_decay": 0.8},
    "running_statistics": {"loss.running_statistics": True},
    "no_augmentation": {"augment.flip": False, "augment.crop_scale": (1.0, 1.0), "augment.pad_crop": 0},
    "sgd": {"optimizer.name": "sgd", "optimizer.lr": 0.01, "optimizer.weight_decay": 1e-4},
}


def build(config: Config) -> Experiment:
    """The recipe of classifiers."""
    return classification(config, network(config.model))


if __name__ == "__main__":
    sys.exit(main("finetune", config=Config(), quick=QUICK, build=build, description=__doc__ or ""))
