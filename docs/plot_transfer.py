"""Fine-tuning against training from scratch, from the tables of the ablation study in results.md.

python docs/plot_transfer.py runs/transfer docs/images/transfer.png
"""

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    with (options.study / "tables" / "top1_accuracy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if "labels_per_class" in row["changes"]]
    figure, axes = plt.subplots(figsize=(5, 3.4), dpi=110, layout="constrained")
    for label, wanted in (("from scratch", False), ("fine-tuned from the other half of the classes", True)):
        chosen = [row for row in rows if ("init_from" in row["changes"]) == wanted]
        labels = [int(row["changes"].split(";")[0].split("=")[1]) for row in chosen]
        mean, spread = ([float(row[column]) for row in chosen] for column in ("mean", "sd"))
        axes.errorbar(labels, mean, yerr=spread, marker="o", capsize=3, label=label)
        print(label, [f"{n}: {m:.4f} ± {s:.4f}" for n, m, s in zip(labels, mean, spread, strict=True)])
    axes.set(xscale="log", xlabel="labels a class", ylabel="test top 1, five classes", ylim=(0.2, 1))
    axes.set_xticks([10, 50, 500], ["10", "50", "500"])
    axes.minorticks_off()
    axes.axhline(0.2, color="grey", linestyle=":", linewidth=1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
