"""The book's figures: one style, readable in light and dark, on a phone, in grey, and with a screen reader.

A figure is inline SVG. Everything drawn in ``INK`` or black takes the page's own text colour, so it follows
dark mode; the roles' colours have a contrast of at least 3:1 on white and on near-black, and each has a line
style and a marker of its own besides.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sto_lite.page import INK, Control, Output, live, markup, picture, require_alt, still

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_STATES = 200
# role: (label, colour, line style, marker); hues after Okabe and Ito (2008), evened out for both backgrounds
_ROLES: dict[str, tuple[str, str, Any, str]] = {
    "baseline": ("baseline", "#7f7f7f", "--", "o"),
    "stochastic-depth": ("stochastic depth", "#0a7bc0", "-.", "s"),
    "student": ("student", "#3a9ad4", ":", "v"),
    "teacher": ("teacher", "#d55e00", "-", "D"),
    "sto": ("STO", "#d55e00", "-", "D"),
    "dml": ("DML", "#009e73", (0, (6, 2)), "^"),
    "one": ("ONE", "#c46ba0", (0, (3, 1, 1, 1)), "P"),
    "okddip": ("OKDDip", "#b8860b", (0, (1, 1)), "X"),
}
LABELS = {role: values[0] for role, values in _ROLES.items()}
COLOURS = {role: values[1] for role, values in _ROLES.items()}
LINESTYLES = {role: values[2] for role, values in _ROLES.items()}
MARKERS = {role: values[3] for role, values in _ROLES.items()}
# Of bars.
HATCHES = {"baseline": "", "stochastic-depth": "////", "sto": "....", "student": "////", "teacher": ""}
# For lines without a role.
_CYCLE_COLOURS = [COLOURS[role] for role in ("stochastic-depth", "sto", "dml", "one", "okddip", "baseline")]
_CYCLE_LINESTYLES = ["-", "--", "-.", ":", (0, (6, 2)), (0, (3, 1, 1, 1))]


def style() -> None:
    """Set matplotlib's defaults for the book: 6.0 × 3.2 inches, 12 points, transparent, one ink."""
    import matplotlib
    from cycler import cycler

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    matplotlib.rcParams.update(
        dict.fromkeys([*ink, "grid.color", "patch.edgecolor", "hatch.color"], INK)
        | {
            "axes.axisbelow": True,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.prop_cycle": cycler(color=_CYCLE_COLOURS) + cycler(linestyle=_CYCLE_LINESTYLES),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 12,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "none",
            "figure.figsize": (6.0, 3.2),
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
            "font.size": 12,
            "grid.alpha": 0.18,
            "legend.fontsize": 11,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "lines.markersize": 6,
            "savefig.facecolor": "auto",
            "svg.fonttype": "none",
            "svg.hashsalt": "sto",
            "xtick.labelsize": 11,
            "ytick.labelsize": 11,
        }
    )


def line(role: str, **more: Any) -> dict[str, Any]:
    """Keywords for ``ax.plot``: the role's colour, line style and label, and whatever is given besides."""
    if role not in _ROLES:
        raise ValueError(f"There is no role {role!r}; the roles are {', '.join(_ROLES)}.")
    return {"color": COLOURS[role], "linestyle": LINESTYLES[role], "label": LABELS[role]} | more


def band(ax: "Axes", x: Any, ys: Any, role: str, spread: str = "range", label: str | None = None) -> None:
    """Draw the mean over seeds, and how far the seeds lie apart.

    Args:
        ax: where to draw.
        x: (points,), for instance epochs.
        ys: (seeds, points), one row per seed; one seed gives a line without a band.
        role: a key of ``COLOURS``.
        spread: "range" from the least to the greatest seed, or "std" for ± one sample standard deviation.
        label: for the legend, in place of the role's own.
    """
    x, ys = np.asarray(x), np.atleast_2d(np.asarray(ys, dtype=float))
    if ys.shape[1:] != x.shape:
        raise ValueError(f"ys must be (seeds, {len(x)}) to match x, not {ys.shape}.")
    if spread not in ("range", "std"):
        raise ValueError(f'spread must be "range" or "std", not {spread!r}.')
    import seaborn

    seaborn.lineplot(
        x=np.tile(x, len(ys)),
        y=ys.ravel(),
        ax=ax,
        errorbar=None if len(ys) == 1 else ("pi", 100) if spread == "range" else "sd",
        err_kws={"alpha": 0.25, "linewidth": 0},
        legend=False,
        **line(role, **({} if label is None else {"label": label})),
    )


def image_grid(
    images: torch.Tensor,
    labels: Iterable[Any] | None = None,
    columns: int = 10,
    titles: Sequence[str] | None = None,
) -> "Figure":
    """A contact sheet of images, row by row; show it as SVG (its pixels are embedded as they are).

    Args:
        images: uint8 (N, 1 or 3, H, W).
        labels: N strings or numbers to write above the images.
        columns: images per row; with titles, 7 or fewer stay readable on a phone.
        titles: class names; then ``labels`` are indices into them.
    """
    from matplotlib.figure import Figure

    pixels = images.cpu().numpy()
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not len(pixels):
        raise ValueError(f"images must be uint8 (N, 1 or 3, H, W), not {pixels.dtype} {pixels.shape}.")
    count, _, height, width = pixels.shape
    marks = [] if labels is None else labels.tolist() if isinstance(labels, torch.Tensor) else labels
    names = [str(titles[int(mark)] if titles else mark) for mark in marks]
    if labels is not None and len(names) != count:
        raise ValueError(f"There are {count} images but {len(names)} labels.")
    gap = max(1, width // 24)
    points = 432 / columns / (width + gap)  # a pixel's size, for sheets of 6 inches
    size = min(12.0, width * points / (0.62 * max((1, *map(len, names)))))
    head = round(1.4 * size / points) if names else 0
    across, down = min(columns, count), -(-count // columns)
    sheet = np.zeros((down * (head + height + gap), across * (width + gap), 4), np.uint8)
    fig = Figure(figsize=(sheet.shape[1] * points / 72, sheet.shape[0] * points / 72), layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.axis("off")
    for index, image in enumerate(pixels):
        top, left = index // columns * (head + height + gap) + head, index % columns * (width + gap)
        sheet[top : top + height, left : left + width, :3] = image.transpose(1, 2, 0)
        sheet[top : top + height, left : left + width, 3] = 255
        if names:
            ax.text(left + width / 2, top - 0.35 * size / points, names[index], ha="center", fontsize=size)
    ax.imshow(sheet, interpolation="none", aspect="auto", extent=(0, sheet.shape[1], sheet.shape[0], 0))
    return fig


def show(fig: "Figure", alt: str, caption: str | None = None, raster: bool = False) -> None:
    """Display a figure as one output and close it.

    Args:
        fig: the figure.
        alt: what is to be seen, for readers who do not see it; must not be empty.
        caption: plain text below the figure.
        raster: draw a PNG on a white card in place of SVG; for photographs, heat maps, many points.
    """
    from IPython.display import display

    display(Output(markup(picture(fig, alt, raster), caption), f"Figure: {alt}"))


def explore(
    draw: Callable[..., "Figure"], alt: str, caption: str | None = None, raster: bool = False, **controls: Any
) -> None:
    """Display a figure that the reader changes with sliders and drop-down menus.

    With a kernel these are widgets, and each move draws anew. For the page (``STO_BOOK=1``), or without
    ipywidgets, every state is drawn ahead into one HTML output that needs neither kernel nor network. It
    holds one frame per state: some 5 to 10 kB (and 0.2 s) for a line plot, more for a PNG; 60 are plenty.

    Args:
        draw: called with one value per control; returns a Figure, of the same size and axes for every value.
        alt: what is to be seen; the state is added to it.
        caption: plain text below the figure.
        raster: as in ``show``.
        controls: name = its values (numbers give a slider, anything else a menu), or a dict with ``values``
            and, if wanted, ``label`` and ``default`` (else the first value).

    Raises:
        ValueError: no control, a control without values, an unknown default, or more than 200 states.
    """
    from IPython.display import display

    require_alt(alt)
    ready = [Control.read(name, given) for name, given in controls.items()]
    states = prod(len(control.values) for control in ready)
    if not ready or states > MAX_STATES:
        raise ValueError(
            f"explore takes 1 control or more and at most {MAX_STATES} states, not {states}: thin out."
        )
    if find_spec("ipywidgets") and not os.environ.get("STO_BOOK"):
        display(live(draw, alt, caption, raster, ready))
    else:
        display(Output(still(draw, alt, caption, raster, ready), f"Figure to explore: {alt}"))
