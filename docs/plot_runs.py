"""One number of several runs against the images seen, as plots in results.md show it.

python docs/plot_runs.py out.png --metric eval/top1_accuracy --title CIFAR-10 first=runs/a second=runs/b
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter

from vision.train.records import read_metrics


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", nargs="+", help="label=work directory")
    parser.add_argument("--metric", default="eval/top1_accuracy")
    parser.add_argument("--title", default="")
    parser.add_argument("--ylabel", default="")
    parser.add_argument("--low", type=float, help="lower end of the axis")
    options = parser.parse_args()
    figure, axes = plt.subplots(figsize=(5, 3.2), dpi=110, layout="constrained")
    for run in options.runs:
        label, _, folder = run.rpartition("=")
        lines = [line for line in read_metrics(Path(folder) / "metrics.jsonl") if options.metric in line]
        axes.plot([line["images"] for line in lines], [line[options.metric] for line in lines], marker=".", label=label)
    axes.set(title=options.title, xlabel="training images", ylabel=options.ylabel or options.metric)
    axes.set_ylim(bottom=options.low)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
