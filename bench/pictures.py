"""The suite's pictures. matplotlib is needed for these alone; without it the tables are still made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Line = Sequence[tuple[float, float]]  # points, x rising


@dataclass(frozen=True)
class Panel:
    """One diagram: a line per name."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Line]
    is_log_x: bool = True
    is_log_y: bool = True
    log_base: int = 2  # of x


def draw(panels: Sequence[Panel], path: Path, caption: str) -> None:
    """Panels side by side, as PNG. Without matplotlib it only prints a note."""
    try:
        import matplotlib
    except ImportError:
        print(f"no picture: {path.name} needs matplotlib (requirements-dev.txt)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 3.8), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for name, points in panel.lines.items():
            axis.plot(
                [x for x, _ in points], [y for _, y in points], marker="o", markersize=3, linewidth=1.2, label=name
            )
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.is_log_x:
            axis.set_xscale("log", base=panel.log_base)
        values = [y for points in panel.lines.values() for _, y in points]
        if panel.is_log_y and values and min(values) > 0:
            axis.set_yscale("log")
            axis.set_ylim(min(values) / 2, max(values) * 2)
        axis.grid(True, which="major", linewidth=0.4)
        if len(panel.lines) > 1:
            axis.legend(fontsize=8)
    figure.text(0.01, 0.005, caption, fontsize=6)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
