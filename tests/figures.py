"""What the tests of figures and of explorations share."""

from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("Agg")


def draw(height=1, kind="line"):
    fig, ax = plt.subplots()
    if kind == "line":
        ax.plot([0, 1, 2], [0, height, 0], marker="o", label="$p_l$")
    else:
        ax.bar([0, 1, 2], [0, height, 0])
    ax.set(title="A & B <C>", ylim=(0, 9))
    return fig


def page_of(shown):
    return "".join(output._repr_html_() for output in shown)


class Tags(HTMLParser):
    """All start tags of some HTML, as (name, attributes)."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]
