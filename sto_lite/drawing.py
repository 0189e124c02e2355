"""How a synthetic face is drawn: a function for each part, saying which action unit moves what (chapter 1).

A face is a stack of soft masks on a pixel grid. Head coordinates: x from -1 (left) to 1 (right), y from -1 (top) to
1 (bottom); side is `abs(x)`, so that a feature is drawn once and appears on both sides. A tone is a grey value,
0 = black to 1 = white. The entries of `au`, `look` and `scene` are (B, 1, 1) tensors, masks and canvases (B, H, W).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Values = dict[str, Tensor]
Units = dict[int, Tensor]


@dataclass(frozen=True)
class Plane:
    """Where the pixels lie on the face: x, side = `abs(x)` and y, (B, H, W), and the width of a pixel."""

    x: Tensor
    side: Tensor
    y: Tensor
    pixel: float


def paint(canvas: Tensor, mask: Tensor, tone: Tensor | float) -> Tensor:
    """Cover the canvas with a tone where the mask is 1, and partly where it lies between 0 and 1."""
    return canvas + mask * (tone - canvas)


def between(value: Tensor, low: Tensor, high: Tensor, pixel: float) -> Tensor:
    """The region low < value < high between two curves, as the share of each pixel, 0..1, that it covers."""
    covered = torch.minimum(value + pixel / 2, high) - torch.maximum(value - pixel / 2, low)
    return (covered / pixel).clamp(0, 1)


def ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float, pixel: float) -> Tensor:
    """An ellipse about (0, 0) with an edge one pixel wide."""
    inside = 1 - (x / rx) ** 2 - (y / ry) ** 2  # near the edge, twice the distance to it in mean radii
    return (inside * ((rx + ry) / 4 / pixel) + 0.5).clamp(0, 1)


def bump(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """A soft hill about (0, 0) for shadows and highlights: 1 in the middle, 0 from the radii outwards."""
    return (1 - (x / rx) ** 2 - (y / ry) ** 2).clamp(min=0) ** 2


def stroke(along: Tensor, across: Tensor, half_width: Tensor | float, pixel: float) -> Tensor:
    """A line where across = 0, from along = 0 to 1, thickest half-way and pointed at its ends."""
    thick = half_width * (4 * along * (1 - along)).clamp(min=0)
    return between(across, -thick, thick, pixel)


def head(canvas: Tensor, p: Plane, au: Units, look: Values, scene: Values) -> Tensor:
    """Hair behind, neck, ears and a shaded head. AU26 lengthens the chin; AU6 and AU12 lift the cheeks."""
    skin, width, hair = look["skin"], look["head_width"], look["hair"]
    sides = width + 0.13 + 0.05 * (p.y + 0.3).clamp(min=0)
    behind = ellipse(p.x, (p.y + 0.20).clamp(max=0), sides, 0.86, p.pixel)
    ends = look["hair_length"] - 0.5 * (p.side - 0.6).clamp(min=0) - p.y
    canvas = paint(canvas, behind * (ends / 0.12).clamp(0, 1), hair * (0.8 + 0.2 * (0.9 - p.y).clamp(0, 1)))
    neck = between(p.side, -width, width * 0.62 + 0.1 * (p.y - 0.7).clamp(min=0), p.pixel) * (p.y > 0.5)
    canvas = paint(canvas, neck, skin * 0.55)
    canvas = paint(canvas, ellipse(p.side - width, p.y + 0.02, 0.09, 0.2, p.pixel), skin * 0.68)
    nx = p.x / (width * (1 + look["jaw"] * p.y.clamp(0, 1)))
    ny = torch.where(p.y > 0, p.y / (0.93 + 0.10 * au[26]), p.y / 0.98)
    r2 = nx**2 + ny**2
    # (nx, ny, nz): the surface's normal, nearly that of a ball.
    nz = (1 - 0.45 * r2 - 0.23 * r2**2).clamp(min=0)
    light = 0.34 + 0.70 * nz + 0.42 * (scene["light_x"] * nx + (scene["light_y"] - 0.25) * ny)
    canvas = paint(canvas, ((1 - r2) * 0.4 / p.pixel + 0.5).clamp(0, 1), skin * light)
    lift = 0.6 * au[6] + 0.4 * au[12]
    cheek = bump(p.side - 0.42, p.y - 0.20 + 0.05 * lift, 0.24, 0.20)
    return canvas * (1 + cheek * (0.05 + 0.16 * lift))


def folds(canvas: Tensor, p: Plane, au: Units, look: Values) -> Tensor:
    """Wrinkles of the forehead (AU1, AU2), between the brows (AU4), of the nose's root (AU9); crow's
    feet (AU6); the fold from nose to mouth corner (AU6, AU9, AU10, AU12), the chin's dimple (AU17).
    """
    age, shade, soft = look["age"], torch.zeros_like(p.x), max(p.pixel, 0.03)
    for line in (0.0, 0.10):  # AU1 wrinkles the middle of the forehead, AU2 its sides
        rise = 0.06 * au[1] + 0.06 * au[2] * (2 * p.side) ** 2
        forehead = stroke(p.side / 1.1 + 0.5, p.y + 0.56 + line + 0.5 * rise, 0.020, soft)
        shade = shade + forehead * (0.30 * torch.maximum(au[1] * (1 - 1.5 * p.side).clamp(0, 1), au[2]))
    furrow = stroke((p.y + 0.46) / 0.26, p.side - 0.055 + 0.1 * (p.y + 0.3), 0.022, soft)
    shade = shade + furrow * (0.5 * au[4] + 0.3 * au[9])
    for line in (0.0, 0.08):
        root = stroke(p.side / 0.24 + 0.5, p.y + 0.16 - line + 0.6 * p.side, 0.020, soft)
        shade = shade + root * (0.55 * au[9])
    for slope in (-0.35, 0.0, 0.35):
        feet = stroke((p.side - 0.53) / 0.13, p.y + 0.14 - slope * (p.side - 0.48), 0.012, soft)
        shade = shade + feet * (0.45 * au[6])
    corner = look["mouth_width"] + 0.08 + 0.10 * au[12] + 0.05 * au[20]
    t = (p.y - 0.14 + 0.05 * au[9]) / 0.46
    fold = stroke(t, p.side - 0.13 - (corner - 0.13) * t - 0.16 * t * (1 - t), 0.028, 2 * soft)
    shade = shade + fold * (0.08 + 0.34 * torch.maximum(au[12], torch.maximum(au[9], au[10])) + 0.08 * au[6])
    shade = shade + bump(p.x, p.y - 0.80, 0.22, 0.10) * (0.05 + 0.30 * au[17])
    return canvas * (1 - (0.5 + 0.5 * age) * shade.clamp(0, 0.8))


def eyes(canvas: Tensor, p: Plane, au: Units, look: Values, scene: Values) -> Tensor:
    """AU5 raises the upper lid, AU7 tightens both, AU6 and AU9 push the lower one up, AU1 lifts the inner
    end.
    """
    size, skin = look["eye_size"], look["skin"]
    x, y = p.side - look["eye_gap"], p.y + 0.15
    u = (x / (0.165 * size)).clamp(-1.25, 1.25)
    arch = (1 - u**2).clamp(min=0)
    y = y + (look["eye_tilt"] - 0.022 * au[1] * (1 - au[2] * 0.7) + 0.015 * au[4]) * u
    upper = size * (0.082 + 0.055 * au[5] - 0.028 * au[7] - 0.018 * au[6] - 0.02 * au[9] - 0.01 * au[4])
    lower = size * (0.052 + 0.008 * au[5] - 0.026 * au[7] - 0.036 * au[6] - 0.024 * au[9])
    pouch = stroke(u / 2.4 + 0.5, y - lower * arch - 0.045, 0.030, p.pixel)
    socket = bump(x + 0.03, y + 0.10, 0.28, 0.17)
    canvas = canvas * (1 - 0.16 * socket) * (1 - pouch * (0.08 + 0.22 * torch.maximum(au[6], au[7])))
    crease = stroke(u / 2.3 + 0.5, y + upper * arch + 0.045 * (1 - 0.6 * au[5]), 0.016, p.pixel)
    canvas = canvas * (1 - 0.35 * crease)
    opening = between(y, -upper * arch, lower * arch, p.pixel)
    ix, iy = x - p.x.sign() * scene["gaze"], y + 0.008
    white = 0.62 + 0.33 * skin - 0.12 * u**2
    ball = paint(white, ellipse(ix, iy, 0.075 * size, 0.075 * size, p.pixel), look["iris"])
    ball = paint(ball, ellipse(ix, iy, 0.035, 0.035, p.pixel), 0.03)
    ball = paint(ball, ellipse(p.x.sign() * ix + 0.025, iy + 0.028, 0.02, 0.02, p.pixel), 0.95)
    ball = ball * (1 - 0.3 * ((y + upper * arch) < 0.03))  # the upper lid's shadow
    canvas = paint(canvas, opening, ball)
    lash = stroke(u / 2.2 + 0.5, y + upper * arch, 0.024, p.pixel)
    rim = stroke(u / 2.2 + 0.5, y - lower * arch, 0.010, p.pixel)
    return paint(canvas, (0.85 * lash + 0.4 * rim).clamp(0, 1), 0.08)


def brows(canvas: Tensor, p: Plane, au: Units, look: Values) -> Tensor:
    """AU1 raises the inner ends, AU2 the outer ends; AU4 lowers the brows and draws them together."""
    inner = look["eye_gap"] - 0.20 - 0.045 * au[4]
    u = (p.side - inner) / 0.42
    v = u.clamp(0, 1)
    raised = 0.10 * au[1] * (1 - v) ** 2 + 0.015 * au[1] + 0.13 * au[2] * v * (1.6 - v) * 1.2
    lowered = au[4] * (0.035 + 0.085 * (1 - v) ** 2) + 0.05 * au[9] * (1 - 0.7 * v)
    middle = -0.37 + look["brow_height"] - look["brow_arch"] * 4 * v * (1 - v) - raised + lowered
    ends = (1 - (1 - 5 * u).clamp(0, 1) ** 2) * (3 * (1 - u)).clamp(0, 1)
    thick = look["brow_thickness"] * (1 - 0.4 * v) * ends
    mask = between(p.y, middle - thick, middle + thick, p.pixel)
    return paint(canvas, 0.88 * mask, 0.7 * look["hair"])


def nose(canvas: Tensor, p: Plane, au: Units, look: Values, scene: Values) -> Tensor:
    """Bridge, tip, wings and nostrils. AU9 pulls the nose up and widens it, AU10 does so a little."""
    y = p.y - look["nose_length"] + 0.05 * au[9] + 0.015 * au[10]
    width = look["nose_width"] * (1 + 0.15 * au[9] + 0.10 * au[12])
    bridge = bump(p.x * 0, y + 0.21, 1.0, 0.26)
    slope = (p.x / 0.13).clamp(-1, 1) * (1 - (p.x / 0.26).clamp(-1, 1) ** 2)  # the bridge's two flanks
    flank = 0.35 * scene["light_x"] * slope - 0.18 * bump(p.side - 0.10, p.y * 0, 0.07, 1.0)
    canvas = canvas * (1 + bridge * flank)
    canvas = canvas * (1 + 0.16 * bump(p.x, y + 0.03, 0.07, 0.09) + 0.08 * bump(p.x, y + 0.22, 0.05, 0.2))
    canvas = canvas * (1 - 0.30 * bump(p.x, y - 0.10, width * 1.3, 0.07))
    wing = stroke((y + 0.09) / 0.15, p.side - width - 0.02 + 2 * (y + 0.02) ** 2, 0.022, p.pixel)
    canvas = canvas * (1 - (0.35 + 0.2 * au[9]) * wing)
    nostril = ellipse(p.side - 0.5 * width, y - 0.045, 0.040, 0.022, p.pixel)
    return paint(canvas, 0.75 * nostril, 0.25 * look["skin"])


def mouth(canvas: Tensor, p: Plane, au: Units, look: Values) -> Tensor:
    """AU12 pulls the corners up and out, AU15 down, AU20 sideways; AU23 thins the lips, AU17 pushes the lower
    one up; AU25 parts the lips, AU26 drops the jaw, AU10 lifts the upper lip.
    """
    wider = 0.42 * au[12] + 0.38 * au[20] - 0.16 * au[23] - 0.24 * au[26] * (1 - au[20])
    width = look["mouth_width"] * (1 + wider)
    u = (p.side / width).clamp(0, 1.2)
    square = (0.7 * au[20] + 0.4 * au[10] + 0.5 * au[26]).clamp(max=1)
    arch = (1 - u**2 * (1 - square) - u**4 * square).clamp(min=0)  # 1 at the middle, 0 at the corners
    corner = -0.15 * au[12] + 0.12 * au[15] + 0.05 * au[20] + 0.035 * au[17] + 0.03 * au[10] + 0.10 * au[26]
    centre = look["mouth_height"] - 0.035 * au[17] - 0.01 * au[15] + 0.02 * au[12]
    y = p.y - centre - corner * u**2
    up = 0.015 * au[25] + 0.03 * au[26] + 0.075 * au[10]
    down = 0.055 * au[25] + 0.23 * au[26] + 0.06 * au[25] * au[12]
    down = down - 0.05 * au[10] * (1 - au[25])  # the closed lower lip follows the upper one
    thin = 1 - 0.65 * au[23] - 0.25 * au[12] - 0.30 * au[20]
    top = look["lips"] * 0.052 * thin.clamp(min=0.2)
    bottom = look["lips"] * (0.072 * thin.clamp(min=0.2) + 0.02 * au[17])
    bow = arch * (1 - 0.22 * (1 - (p.x / 0.09) ** 2).clamp(min=0))
    upper_lip = between(y, -up * arch - top * bow, torch.zeros_like(y) - up * arch, p.pixel)
    lower_lip = between(y, down * arch, down * arch + bottom * arch, p.pixel)
    shadow = bump(p.x, y - down - bottom - 0.05, 0.20, 0.07)  # below the lower lip
    gloss = bump(p.x, y - down - 0.5 * bottom, 0.14, 0.04)
    canvas = canvas * (1 - 0.22 * shadow) * (1 - 0.42 * upper_lip) * (1 - (0.28 - 0.20 * gloss) * lower_lip)
    gap = between(y, -up * arch, down * arch, p.pixel)
    biting = (0.02 + 0.08 * au[12] + 0.05 * au[10] + 0.03 * au[20] + 0.01 * au[26]) * arch
    inside = paint(torch.full_like(y, 0.08), bump(p.x, y - down, 0.22, 0.12), 0.3)
    inside = paint(inside, between(y, -up * arch - 0.05, biting - up * arch, p.pixel), 0.90 - 0.35 * u**2)
    canvas = paint(canvas, gap, inside)
    line = stroke(u / 2.1 + 0.5, y + up * arch, 0.016 + 0.006 * au[23], p.pixel)
    return paint(canvas, 0.85 * line, 0.12)


def hair(canvas: Tensor, p: Plane, look: Values) -> Tensor:
    """Hair over the forehead and the temples."""
    skull = ellipse(p.x, p.y.clamp(max=0), look["head_width"] + 0.07, 1.04, p.pixel)
    fringe = look["fringe"] * (p.x - look["parting"]) ** 2
    edge = look["hairline"] + fringe + 5 * (p.side - 0.40).clamp(min=0) ** 2
    edge = torch.minimum(edge, look["hair_length"].clamp(min=-0.1))
    strands = ((5 * p.x + 2 * (p.x - look["parting"]) * p.y) % 1 - 0.5).abs()
    tone = look["hair"] * (0.95 + 0.25 * strands + 0.3 * bump(p.x + 0.1, p.y + 0.85, 0.5, 0.2) - 0.2 * p.side)
    shadow = skull * between(p.y, edge - 0.1, edge + 0.06, 0.1)
    canvas = canvas * (1 - 0.25 * shadow)
    return paint(canvas, skull * between(p.y, p.y - 1, edge, 1.5 * p.pixel), tone)


def beard(canvas: Tensor, p: Plane, look: Values) -> Tensor:
    """A beard on jaw and upper lip, drawn before the mouth; look["beard"] is its density, absent below 0."""
    line = 0.62 - 1.3 * (p.side - 0.12).clamp(min=0) ** 2 - 1.5 * (p.side - 0.5).clamp(min=0)
    moustache = bump(p.x, p.y - 0.39, 0.36, 0.10)
    mask = torch.maximum(((p.y - line) / 0.14).clamp(0, 1), (2 * moustache).clamp(max=1))
    inside = bump(p.x / look["head_width"], p.y.clamp(min=0) / 0.93, 1.0, 1.0)
    mask = mask * (8 * inside).clamp(max=1) * look["beard"].clamp(min=0)
    return canvas * (1 - mask * (1 - torch.minimum(look["hair"] / look["skin"], look["skin"])))


def glasses(canvas: Tensor, p: Plane, look: Values) -> Tensor:
    """Round glasses, absent below 0. Like hair and beard they do not move with any action unit."""
    x, y = p.side - look["eye_gap"], p.y + 0.12
    rim = ellipse(x, y, 0.25, 0.20, p.pixel) - ellipse(x, y, 0.225, 0.175, p.pixel)
    bridge = stroke(p.x / 0.3 + 0.5, p.y + 0.16, 0.03, p.pixel)
    return paint(canvas, torch.maximum(rim, bridge) * (4 * look["glasses"]).clamp(0, 0.9), 0.10)


def occlude(canvas: Tensor, x: Tensor, y: Tensor, scene: Values) -> Tensor:
    """A hand-like bar of four fingers across the image; scene["occluder"] is its half-width, 0 for none."""
    across = y - scene["occluder_y"] - scene["occluder_slope"] * (x - scene["occluder_x"])
    half = scene["occluder"]
    finger = (across / half.clamp(min=1e-3) * 2) % 1
    reach = (x - scene["occluder_x"]) * torch.where(scene["occluder_x"] > 0, 1.0, -1.0) + 0.5
    mask = (across.abs() < half) & (reach > 0.5 * (finger - 0.5) ** 2)
    return paint(canvas, mask.float(), scene["occluder_tone"] * (0.75 + finger * (1 - finger)))


def render(au: Units, look: Values, scene: Values, size: int) -> Tensor:
    """The faces as a (B, size, size) float tensor of tones, without pixel noise."""
    centres = (torch.arange(size) + 0.5) * (2 / size) - 1
    px, py = centres.view(1, 1, size), centres.view(1, size, 1)
    sx, sy = px - scene["shift_x"], py - scene["shift_y"]
    t = scene["rotation"] / 2  # a rotation by 2 atan(t), nearly 2 t
    zoom = 0.92 * (1 + scene["zoom"])
    cos, sin = (1 - t**2) / (1 + t**2), 2 * t / (1 + t**2)
    x = (cos * sx + sin * sy) * zoom
    y = (cos * sy - sin * sx) * zoom
    head_plane = Plane(x, x.abs(), y, 2 / size)
    fx = x - scene["yaw"] * (1 - (x / 0.9) ** 2).clamp(min=0)
    fy = y - scene["pitch"] * (1 - y**2).clamp(min=0)
    plane = Plane(fx, fx.abs(), fy, 2 / size)
    canvas = (0.55 + scene["backdrop"] * (1 + 0.3 * py)).expand_as(x)
    canvas = head(canvas, head_plane, au, look, scene)
    canvas = folds(canvas, plane, au, look)
    canvas = beard(canvas, plane, look)
    canvas = mouth(canvas, plane, au, look)
    canvas = nose(canvas, plane, au, look, scene)
    canvas = eyes(canvas, plane, au, look, scene)
    canvas = brows(canvas, plane, au, look)
    canvas = glasses(canvas, plane, look)
    canvas = hair(canvas, head_plane, look)
    canvas = canvas * (1 + 0.25 * (scene["light_x"] * px + scene["light_y"] * py))
    canvas = occlude(canvas, px, py, scene)
    canvas = (canvas - 0.45) * (1 + scene["contrast"]) + 0.45 + scene["brightness"]
    for axis in (1, 2):  # a small binomial blur, mixed in as strongly as the scene says
        before, after = canvas.roll(1, axis), canvas.roll(-1, axis)
        canvas = paint(canvas, scene["blur"].clamp(0, 1), (before + after + 2 * canvas) / 4)
    return canvas
