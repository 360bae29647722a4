"""The pictures of a run, drawn with matplotlib's object interface: no global state, no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import BLUE, GRAY, ORANGE, one_line
from pipeline.pictures.layout import write_finding


def confusion_figure(confusion: np.ndarray, labels: Sequence[str], title: str) -> Figure:
    """Returns the confusion matrix: color is the share of the true class, the numbers are images.

    Numbers stand in the cells up to 30 classes; up to 60 every class is named, beyond that some are.
    """
    count = len(labels)
    side = min(3.2 + 0.42 * count, 16)
    figure = Figure(figsize=(side + 1, side))
    axes = figure.add_subplot()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 30:
        for (row, column), images in np.ndenumerate(confusion):
            if images:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(images), ha="center", va="center", color=ink, fontsize=8)
    shown = range(0, count, 1 if count <= 60 else -(-count // 40))
    names = [one_line(labels[place], 24) for place in shown]
    size = 9 if count <= 30 else 7
    axes.set_xticks(shown, names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size, parse_math=False)
    axes.set_yticks(shown, names, fontsize=size, parse_math=False)  # a "$" in a class name is a dollar
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03, label="share of the true class")
    return figure


def history_figure(history: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Returns the loss and one more metric over the epochs of both phases, train and validation."""
    figure = Figure(figsize=(5.4, 2.8))  # narrow enough for a phone
    epochs = [row["epoch"] for row in history]
    boundary = next((row["epoch"] - 0.5 for row in history if row["phase"] != history[0]["phase"]), None)
    best = min(history, key=lambda row: row["validation/loss"])
    for place, name in enumerate(["loss", metric], start=1):
        axes = figure.add_subplot(1, 2, place)
        for split, color in (("train", ORANGE), ("validation", BLUE)):
            axes.plot(epochs, [row[f"{split}/{name}"] for row in history], color=color, label=split, marker=".", ms=3)
        axes.plot(best["epoch"], best[f"validation/{name}"], "o", mfc="none", mec=BLUE, ms=9, label="best loss")
        if boundary:
            axes.axvline(boundary, color=GRAY, lw=0.8, ls=":")
            axes.annotate(" fine-tune", (boundary, 0.97), xycoords=("data", "axes fraction"), color=GRAY, fontsize=8)
        axes.set_xlabel("epoch")
        axes.set_title(name, loc="left", fontsize=10, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    lowest = f"{best['validation/loss']:.3f} in epoch {best['epoch']} of {epochs[-1]}"
    write_finding(figure, f"The validation loss is lowest, {lowest}")
    return figure
