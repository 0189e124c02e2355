"""A model card filled from what a network's file says (after Mitchell et al. 2019, arXiv:1810.03993).

What the file does not say, and nobody has measured, is "not known" in the card.
"""

from typing import Any

from sto_lite.about import NOT_KNOWN, wilson
from sto_lite.sets import TITLES

FACES = ("faces", "fer2013", "rafdb")
WHO = {
    "faces": "Nobody: every face is drawn from random numbers. Whom the drawings resemble, and whom not: not known.",
    "fer2013": (
        "People whose photographs an image search found on the web in 2013. Whether they agreed, and their age, "
        "gender and origin: not known."
    ),
    "rafdb": (
        "People whose photographs were found on the web. The set's authors give gender, age and race beside its "
        "labels; the run did not read them. Whether these people agreed: not known."
    ),
    "cifar100": "Photographs of things and animals; five of its classes are people, about whom more is not known.",
}
USE = {
    True: "Teaching, and research on training methods: what distillation does to a network's errors.",
    False: "Teaching, and research on training methods, measured on this image set.",
}
MISUSE = {
    True: (
        "Any decision about a person. An expression is not a feeling (Barrett et al. 2019, "
        "doi:10.1177/1529100619832930): the network names what people call a picture, not what somebody feels. Not "
        "for watching people, hiring, schools, health or policing. The European Union's AI Act forbids to infer "
        "emotions at work and in education, medical and safety reasons aside (Article 5(1)(f))."
    ),
    False: "Anything that relies on its answers: they were measured on this image set alone.",
}


def card(about: dict[str, Any], preprocessing: str) -> str:
    """The model card of a network, as Markdown, from its description (about.py) and its preprocessing in words."""
    data, method, protocol = about["data"], about["method"], about["protocol"]
    name = data["name"]
    title = TITLES.get(name, name)
    # A set that nobody has described may hold faces, so its card warns as for faces.
    of_faces = name in FACES or name not in TITLES
    counts = ", ".join(f"{split} {count:,}" for split, count in data["counts"].items())
    made = {k: v for k, v in data.items() if k not in ("name", "size", "counts", "fingerprint")}
    if made.pop("votes", False):
        made["training labels"] = "shares of FER+'s votes"
    network = {
        "Network": f"{protocol['net']}, {about['parameters']:,} parameters in training",
        "Method": settings(method),
        "Protocol": settings(protocol),
        "Input": f"a crop of one face: {preprocessing}" if of_faces else f"a picture: {preprocessing}",
        "Output": f"probabilities of {len(about['classes'])} classes: {', '.join(about['classes'])}",
    }
    images = {
        "Set": f"{title} ({name})",
        "Images": counts,
        "Settings": settings(made) if made else "none",
        "Fingerprint": data["fingerprint"],
        "Terms": about["terms"],
        "Who is in it": WHO.get(name, NOT_KNOWN),
    }
    parts = [
        f"# Model card: {protocol['net']} by {method['name']} on {title}",
        listed("Network", network),
        f"## Use\n\n{USE[of_faces]}",
        f"## Misuse\n\n{MISUSE[of_faces]}",
        listed("Data", images),
        *(errors(split, found, about["classes"]) for split, found in reversed(about["measured"].items())),
        "## Not known\n\n"
        "- The error on pictures from anywhere else, such as a camera.\n"
        "- The error by groups of people (age, gender, skin, glasses): the test images do not say.\n"
        "- How far the error moves from seed to seed: this is one run.\n"
        "- Whether the probabilities are right as probabilities: they were not calibrated.",
    ]
    return "\n\n".join(parts) + "\n"


def settings(values: dict[str, Any]) -> str:
    """Settings in a line, the name without its key."""
    words = [str(v) if k == "name" else f"{k.replace('_', ' ')} {plain(v)}" for k, v in values.items()]
    return ", ".join(words)


def plain(value: object) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value)


def listed(heading: str, values: dict[str, str]) -> str:
    """A section that is a list."""
    return "\n".join([f"## {heading}", "", *(f"- **{name}**: {value}" for name, value in values.items())])


def errors(split: str, found: dict[str, Any], classes: list[str]) -> str:
    """A section with a split's error and those by class, each with its interval."""
    unknown = f"{NOT_KNOWN} | {NOT_KNOWN}"
    low, high = found["interval"]
    lines = [
        f"## Errors on the {split} images",
        "",
        f"{found['error']:.2f} % of {found['images']:,} images are named wrongly (95 % interval {low:.2f} to "
        f"{high:.2f} %, from the choice of the images alone; Wilson 1927).",
        "",
        "| class | images | wrong | error | 95 % interval |",
        "|---|---|---|---|---|",
    ]
    for label, (images, wrong) in zip(classes, found["by_class"], strict=True):
        low, high = wilson(wrong, images)
        shown = f"{100 * wrong / images:.1f} % | {low:.1f} to {high:.1f} %" if images else unknown
        lines.append(f"| {label} | {images:,} | {wrong:,} | {shown} |")
    return "\n".join(lines)
