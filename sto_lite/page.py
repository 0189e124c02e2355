"""How a figure becomes HTML: cleaned inline SVG or a PNG, and explorations with or without a kernel.

The HTML needs no network and no style sheet, so it works alike in the book, JupyterLab, Colab and nbviewer.
"""

import base64
import html
import io
import itertools
import json
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2328"  # text, axes, ticks, grid; becomes the page's text colour

SCRIPT = """(() => {
for (const root of document.querySelectorAll('[data-sto="KEY"]')) {
  const controls = [...root.querySelectorAll("input, select")], frames = root.querySelectorAll(".frame");
  const show = () => {
    let state = 0;
    for (const control of controls) {
      const labels = JSON.parse(control.dataset.labels), readout = control.nextElementSibling;
      state = state * labels.length + Number(control.value);
      if (readout) {
        readout.value = labels[control.value];
        control.setAttribute("aria-valuetext", readout.value);
      }
    }
    frames.forEach((frame, index) => { frame.hidden = index !== state; });
  };
  for (const control of controls) control.oninput = show;
  root.querySelector(".controls").hidden = false;
  show();
}
})();"""


@dataclass(frozen=True)
class Output:
    """One output bundle: HTML for the page, one line of text for everything else."""

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Control:
    """One control of an exploration."""

    name: str
    values: tuple[Any, ...]
    label: str
    default: int  # index into values
    numeric: bool  # a slider; otherwise a menu

    @classmethod
    def read(cls, name: str, given: Any) -> "Control":
        """Take a sequence of values, or a dict with ``values`` and, if wanted, ``label`` and ``default``."""
        options = dict(given) if isinstance(given, Mapping) else {"values": given}
        values = tuple(options.get("values", ()))
        if not values:
            raise ValueError(f"The control {name!r} has no values.")
        default = options.get("default", values[0])
        if default not in values:
            raise ValueError(f"The default of {name!r}, {default!r}, is not one of its values.")
        numeric = all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
        return cls(name, values, options.get("label", name.replace("_", " ")), values.index(default), numeric)

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them."""
        return [f"{value:g}" if self.numeric else str(value) for value in self.values]

    def html(self, key: str) -> str:
        """A labelled range or menu; its value is an index into ``values``."""
        ident, label = f"{key}-{self.name}", html.escape(self.label)
        given = f'id="{ident}" aria-label="{label}" data-labels="{html.escape(json.dumps(self.texts))}"'
        if self.numeric:
            field = (
                f'<input type="range" {given} min="0" max="{len(self.values) - 1}" value="{self.default}" '
                'step="1" style="flex:1 1 6em;min-width:0;max-width:24em;height:2.5em;accent-color:#0a7bc0">'
                f'<output for="{ident}" aria-live="off" style="min-width:3em">'
                f"{self.texts[self.default]}</output>"
            )
        else:
            options = "".join(
                f'<option value="{index}"{" selected" * (index == self.default)}>{html.escape(text)}</option>'
                for index, text in enumerate(self.texts)
            )
            field = f'<select {given} style="font:inherit;min-height:2em">{options}</select>'
        row = "display:flex;flex-wrap:wrap;gap:.25em .75em;align-items:center"
        return f'<div style="{row}"><label for="{ident}">{label}</label>{field}</div>'


def require_alt(alt: str) -> None:
    """Hold every figure to a description."""
    if not alt.strip():
        raise ValueError("alt is empty; say what the figure shows, for readers who do not see it.")


def markup(body: str, caption: str | None, key: str = "") -> str:
    """``<figure>`` with its caption; ``key`` marks it for the script of an exploration."""
    text = f'<figcaption style="margin-top:.5em">{html.escape(caption)}</figcaption>' if caption else ""
    mark = f' data-sto="{key}"' if key else ""
    return f'<figure class="sto"{mark} style="margin:1em 0">{body}{text}</figure>'


def picture(fig: "Figure", alt: str, raster: bool = False, salt: str = "") -> str:
    """The figure as ``<svg>`` or ``<img>``; closes it. ``salt`` keeps the ids of equal pictures apart."""
    import matplotlib
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    require_alt(alt)
    if not isinstance(fig, Figure):
        raise TypeError(
            f"A matplotlib Figure is needed (does draw return its figure?), not {type(fig).__name__}."
        )
    size = f"width:100%;max-width:{round(fig.get_figwidth() * 96)}px;height:auto;display:block"
    name, file = html.escape(alt), io.BytesIO()
    if raster:
        fig.savefig(file, format="png", dpi=192, facecolor="white", metadata={"Software": None})
        data = base64.b64encode(file.getvalue()).decode()
        body = (
            f'<img class="dark-light" alt="{name}" src="data:image/png;base64,{data}" '
            f'style="{size};background:#fff;border-radius:4px">'
        )
    else:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sto"}):
            fig.savefig(file, format="svg", metadata={"Date": None})
        body = clean(file.getvalue().decode(), name, size, salt)
    plt.close(fig)
    return body


def clean(svg: str, name: str, size: str, salt: str = "") -> str:
    """Matplotlib's SVG made fit for a page: one root element, unique ids, the page's ink, short numbers.

    svg: written with ``svg.fonttype`` none. name: the description, escaped. size: CSS of the root element. salt: part
    of the ids' hash.
    """
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view is not None  # matplotlib writes one
    svg = svg[svg.index(">", view.end()) + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("base64,\n", "base64,").replace("xlink:href", "href")
    svg = re.sub(r"\s+", " ", svg)
    svg = re.sub(r"> <", "><", svg)
    svg = re.sub(r' (d|x|y|points|transform)="([^"]*)"', _shorten, svg)
    svg = re.sub(r' transform="rotate\(0 [^"]*"', "", svg)
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;\"]*;? ?", "", svg)
    svg = re.sub(r'<path d="[^"]*" style="fill: none" ?/>|<defs ?/>', "", svg)
    svg = re.sub(f"{INK}|#000000", "currentColor", svg, flags=re.IGNORECASE)
    key = "s" + sha256(f"{salt} {name} {svg}".encode()).hexdigest()[:8]
    used = dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    short = {ident: f"{key}-{number}" for number, ident in enumerate(used)}
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", svg)
    svg = re.sub(r'(url\(#|href="#)([^")]+)', lambda m: m[1] + short[m[2]], svg)
    while "<g></g>" in svg:
        svg = svg.replace("<g></g>", "")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view[1]}" role="img" aria-label="{name}" '
        f'fill="currentColor" style="{size};font-family:\'DejaVu Sans\',Verdana,Arial,sans-serif;'
        f'stroke-linejoin:round;stroke-linecap:butt">{svg.strip()}'
    )


def _shorten(attribute: re.Match[str]) -> str:
    """Two decimals for coordinates (in points), four for transforms."""
    digits = 4 if attribute[1] == "transform" else 2

    def short(number: re.Match[str]) -> str:
        text = f"{float(number[0]):.{digits}f}".rstrip("0").rstrip(".")
        return "0" if text == "-0" else text

    return f' {attribute[1]}="{re.sub(r"-?[0-9]+(?:[.][0-9]+)?", short, attribute[2]).strip()}"'


def still(
    draw: Callable[..., "Figure"], alt: str, caption: str | None, raster: bool, controls: Sequence[Control]
) -> str:
    """Every state drawn ahead; a few lines of script show one. Without script the default state is shown."""
    default = tuple(control.default for control in controls)
    frames = []
    for state in itertools.product(*(range(len(control.values)) for control in controls)):
        chosen = list(zip(controls, state, strict=True))
        where = ", ".join(f"{control.label} {control.texts[index]}" for control, index in chosen)
        fig = draw(**{control.name: control.values[index] for control, index in chosen})
        body = picture(fig, f"{alt} ({where})", raster, salt=f"explore {state}")
        frames.append(f'<div class="frame"{"" if state == default else " hidden"}>{body}</div>')
    content = "".join([*frames, *(control.html("") for control in controls)])
    key = "s" + sha256(content.encode()).hexdigest()[:8]
    fields = "".join(control.html(key) for control in controls)
    fields = f'<div class="controls" style="margin-bottom:.75em" hidden>{fields}</div>'
    script = f"<script>{SCRIPT.replace('KEY', key)}</script>"
    return markup(fields + "".join(frames), caption, key) + script


def live(
    draw: Callable[..., "Figure"], alt: str, caption: str | None, raster: bool, controls: Sequence[Control]
) -> Any:
    """The same as ipywidgets, drawn anew by the kernel at each move."""
    import ipywidgets
    from IPython.display import display

    def redraw(**values: Any) -> None:
        display(Output(markup(picture(draw(**values), alt, raster), caption), f"Figure to explore: {alt}"))

    fields = {
        control.name: (ipywidgets.SelectionSlider if control.numeric else ipywidgets.Dropdown)(
            options=list(zip(control.texts, control.values, strict=True)),
            value=control.values[control.default],
            description=control.label,
            style={"description_width": "initial"},
            layout={"width": "auto", "max_width": "36em"},
        )
        for control in controls
    }
    return ipywidgets.VBox([*fields.values(), ipywidgets.interactive_output(redraw, fields)])
