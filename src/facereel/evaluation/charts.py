"""Charts of the report, as self-contained SVG."""

import base64
import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from torch import Tensor

from facereel.evaluation.metrics import TaskResult

# The palette of Okabe and Ito, which is safe for color-blind readers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "facereel",
    "font.family": ["sans-serif"],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "axes.axisbelow": True,
}


def precision_recall_points(n_items: Tensor, n_relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Compute recall and precision within every Hamming radius, averaged over queries with a match.

    Args:
        n_items: (Q, K + 1), number of gallery items by distance.
        n_relevant: (Q, K + 1), number of relevant items by distance.

    Returns:
        Recall and precision, both (R,), for the radii within which at least one query has an item; precision is the
        mean over such queries.
    """
    has_match = n_relevant.sum(dim=1) > 0
    items, found = n_items[has_match].cumsum(dim=1).double(), n_relevant[has_match].cumsum(dim=1).double()
    recall = (found / found[:, -1:]).mean(dim=0)
    answered = items > 0
    precision = (found / items.clamp_min(1)).sum(dim=0) / answered.sum(dim=0).clamp_min(1)
    some = answered.any(dim=0)
    return recall[some], precision[some]


def precision_recall(results: dict[str, TaskResult]) -> str:
    """Draw precision against recall: one line per task, one point per Hamming radius.

    Args:
        results: results by task.

    Returns:
        A data URI.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(7, 4.2)
        axes = figure.subplots()
        for (task, result), color in zip(results.items(), COLORS, strict=False):
            recall, precision = precision_recall_points(result.n_items, result.n_relevant)
            axes.plot(
                recall.tolist(), precision.tolist(), "o-", color=color, label=_title(task), markersize=3, linewidth=1.6
            )
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.legend(frameon=False)
        return _data_uri(figure)


def distance_histograms(results: dict[str, TaskResult]) -> str:
    """Draw the fraction of pairs at each Hamming distance, of the same person and of different people.

    Args:
        results: results by task; each task has one panel.

    Returns:
        A data URI.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(9, 5.4)
        panels = figure.subplots(2, 2, sharex=True).ravel()
        for axes in panels[len(results) :]:
            axes.set_visible(False)
        for axes, (task, result) in zip(panels, results.items(), strict=False):
            same = result.n_relevant.sum(dim=0).double()
            different = (result.n_items - result.n_relevant).sum(dim=0).double()
            edges = [radius - 0.5 for radius in range(len(same) + 1)]
            for counts, color, label in (
                (different, COLORS[1], "different people"),
                (same, COLORS[0], "same person"),
            ):
                fractions = counts / counts.sum().clamp_min(1)
                axes.stairs(fractions.tolist(), edges, fill=True, color=color, alpha=0.65, label=label)
            axes.set_title(_title(task), fontsize=11)
            axes.set_xlabel("Hamming distance")
            axes.set_ylabel("fraction of pairs")
        figure.axes[0].legend(frameon=False, loc="upper right")
        return _data_uri(figure)


def training_curves(curves: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """Draw the training loss and the val mAP by step, one panel per stage.

    Args:
        curves: for each stage "train/loss" and "val/mAP", as pairs of step and value.

    Returns:
        A data URI.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(4.2 * len(curves), 3.2)
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (stage, lines) in zip(panels, curves.items(), strict=True):
            axes.set_title(stage, fontsize=11)
            axes.set(xlabel="step", ylabel="training loss")
            axes.plot(*zip(*lines["train/loss"], strict=True), color=COLORS[0], linewidth=1.4)
            if lines.get("val/mAP"):
                right = axes.twinx()
                right.grid(visible=False)
                right.set(ylim=(0, 1), ylabel="val mAP")
                right.plot(*zip(*lines["val/mAP"], strict=True), "o-", color=COLORS[1], markersize=3, linewidth=1.4)
        return _data_uri(figure)


def roc(verification: dict[str, Any]) -> str:
    """Draw the ROC of pairs, one line per kind of distance: the whole curve, and its low false match rates.

    Args:
        verification: entry of metrics.json.

    Returns:
        A data URI.
    """
    with mpl.rc_context(STYLE):
        figure = _figure(11, 5.4)
        axes, low = figure.subplots(1, 2)
        for (kind, label), color in zip(
            (("codes", "codes, Hamming distance"), ("real_valued", "real-valued outputs")), COLORS, strict=False
        ):
            found = verification[kind]
            axes.plot(found["roc"]["fpr"], found["roc"]["tpr"], color=color, label=label, linewidth=1.6)
            known = [rate for rate, tmr in found["tmr_at_fmr"].items() if tmr is not None]
            rates, tmrs = [float(rate) for rate in known], [found["tmr_at_fmr"][rate] for rate in known]
            low.plot(rates, tmrs, "o-", color=color, markersize=4, linewidth=1.6)
            if ends := [
                (rate, *found["tmr_at_fmr_interval"][rate]) for rate in known if found["tmr_at_fmr_interval"][rate]
            ]:
                places, bottoms, tops = zip(*ends, strict=True)
                low.vlines([float(rate) for rate in places], bottoms, tops, color=color, linewidth=1)
        # The line ends above the legend.
        axes.plot([0, 0.78], [1, 0.22], "--", color="#8a94a3", linewidth=1, label="equal error rate")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false match rate")
        axes.set(ylabel="true match rate", aspect="equal")
        axes.legend(frameon=False, loc="lower right")
        low.set(xscale="log", ylim=(-0.01, 1.01), xlabel="false match rate", ylabel="true match rate, 95% intervals")
        return _data_uri(figure)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _title(task: str) -> str:
    return task.replace("_", " ")


def _data_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
