"""Two numbers of the last evaluation of several runs against each other, as plots in results.md show them.

python docs/plot_tradeoff.py out.png --x eval/rate --y eval/distortion "beta 1=runs/a" "beta 4=runs/b"
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from vision.train.records import read_metrics


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", nargs="+", help="label=work directory, in the order of the line")
    parser.add_argument("--x", default="eval/rate")
    parser.add_argument("--y", default="eval/distortion")
    parser.add_argument("--title", default="")
    parser.add_argument("--xlabel", default="")
    parser.add_argument("--ylabel", default="")
    options = parser.parse_args()
    points = []
    for run in options.runs:
        label, _, folder = run.partition("=")
        last = [line for line in read_metrics(Path(folder) / "metrics.jsonl") if options.x in line][-1]
        points.append((label, last[options.x], last[options.y]))
    figure, axes = plt.subplots(figsize=(5, 3.2), dpi=110, layout="constrained")
    axes.plot([x for _, x, _ in points], [y for _, _, y in points], marker="o", color="#0072b2")
    for label, x, y in points:
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set(title=options.title, xlabel=options.xlabel or options.x, ylabel=options.ylabel or options.y)
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
