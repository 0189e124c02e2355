"""The book's embedded data: synthetic faces whose expression is drawn from facial action units (chapter 1).

Ekman and Friesen's Facial Action Coding System (FACS; 1978, revised with Hager in 2002) describes what a face
does as a sum of action units (AUs), each the visible work of one muscle or a few; their EMFACS (1983) says
which units go together in an emotion, and `PROTOTYPES` follows it. A unit moves a curve (a brow, a lid, a lip) or
deepens a fold (drawing.py). Who it is, the pose, the light and the noise are nuisance.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sto_lite.drawing import render
from sto_lite.errors import StoError
from sto_lite.sets import FER2013

EXPRESSIONS = FER2013.classes  # labels 0..6

ACTION_UNITS = {  # FACS number -> FACS name; the columns of an action-unit tensor come in this order
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    10: "upper lip raiser",
    12: "lip corner puller",
    15: "lip corner depressor",
    17: "chin raiser",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
}

PROTOTYPES: dict[str, dict[int, float]] = {  # expression -> {action unit: intensity in [0, 1]}, after EMFACS
    "angry": {4: 1.0, 5: 0.5, 7: 0.8, 17: 0.3, 23: 1.0},
    "disgust": {4: 0.4, 7: 0.4, 9: 1.0, 10: 1.0, 15: 0.4, 25: 0.3},
    "fear": {1: 1.0, 2: 0.6, 4: 0.6, 5: 1.0, 20: 1.0, 25: 0.8, 26: 0.3},
    "happy": {6: 0.9, 12: 1.0, 25: 0.7},
    "sad": {1: 1.0, 4: 0.6, 15: 1.0, 17: 0.6},
    "surprise": {1: 1.0, 2: 1.0, 5: 0.8, 25: 0.6, 26: 1.0},
    "neutral": {},
}

LOOK = {  # who: name -> (lowest, highest); the middle is the average face
    "skin": (0.45, 0.90),  # tone
    "head_width": (0.68, 0.80),
    "jaw": (-0.12, 0.16),  # relative width of the jaw
    "hair": (0.04, 0.50),  # tone
    "hairline": (-0.80, -0.58),  # y of the hair's lower edge at the midline
    "fringe": (-0.20, 0.60),  # how far the hairline falls towards the temples
    "parting": (-0.35, 0.35),  # x where the hairline is highest or lowest
    "hair_length": (-0.30, 1.30),  # y where the hair at the sides ends
    "eye_gap": (0.30, 0.37),  # |x| of the eyes' centres
    "eye_size": (0.88, 1.18),
    "eye_tilt": (-0.02, 0.025),
    "iris": (0.08, 0.35),  # tone
    "brow_height": (-0.04, 0.03),
    "brow_thickness": (0.022, 0.050),
    "brow_arch": (0.0, 0.05),
    "nose_length": (0.16, 0.26),  # y of the tip
    "nose_width": (0.10, 0.15),
    "mouth_width": (0.23, 0.30),
    "mouth_height": (0.47, 0.54),  # y
    "lips": (0.7, 1.35),  # relative thickness
    "age": (0.2, 1.0),  # depth of folds and wrinkles
    "beard": (-1.6, 0.8),  # density; absent below 0, as are the
    "glasses": (-4.0, 1.0),
}

SCENE = {  # nuisance: name -> half-width of its range at difficulty 1; all 0 is the clean, frontal face
    "rotation": 0.15,  # radians, in the image plane
    "zoom": 0.10,
    "shift_x": 0.08,
    "shift_y": 0.07,
    "yaw": 0.15,  # features move sideways by up to this much at the midline, and not at the head's outline
    "pitch": 0.06,
    "gaze": 0.035,  # sideways shift of the irises
    "light_x": 0.60,  # where the light comes from: left or right,
    "light_y": 0.40,  # above or below
    "contrast": 0.25,
    "brightness": 0.10,
    "backdrop": 0.35,
    "blur": 0.6,  # 0..1; negative is sharp
    "occluder_x": 0.9,
    "occluder_y": 0.9,
    "occluder_slope": 0.8,
}
OCCLUDED = 0.08  # share of images with an occluder at difficulty 1
NOISE = 0.08  # largest half-width of the pixel noise at difficulty 1, in tones
# The most at difficulty 1: loss of intensity, share of a second expression, intensity of a stray unit
WEAKER, MIXED, STRAY = 0.65, 0.3, 0.3
CHUNK = 15_000  # pixels drawn at a time: little memory, and too few for PyTorch to spread over threads


def _columns(table: Tensor, names: list) -> dict:
    """Columns of an (N, len(names)) table as (N, 1, 1) float32 tensors by name."""
    return {name: table[:, i].float().view(-1, 1, 1) for i, name in enumerate(names)}


def _to_bytes(tones: Tensor) -> Tensor:
    return (tones.clamp(0, 1) * 255).round().to(torch.uint8).unsqueeze(1)


def _sample_units(labels: Tensor, u: Tensor, difficulty: float) -> Tensor:
    """Intensities (N, 15) for labels (N,) from uniform numbers u (N, 3 + 2 * 15). Difficulty weakens the
    expression, lets each unit vary on its own, and mixes in a second expression and stray units.
    """
    units = [[PROTOTYPES[name].get(number, 0.0) for number in ACTION_UNITS] for name in EXPRESSIONS]
    prototypes = torch.tensor(units, dtype=torch.float64)
    strength, other, mixed = u[:, 0:1], (u[:, 1] * len(EXPRESSIONS)).long(), u[:, 2:3]
    each, stray = u[:, 3:].chunk(2, dim=1)
    strength = (1 - WEAKER * difficulty * strength).clamp(min=0.05) * (1 + difficulty * (each - 0.5) / 2)
    mixed = MIXED * difficulty * mixed**2
    stray = STRAY * difficulty * (5 * stray - 4).clamp(min=0)
    return (prototypes[labels] * strength * (1 - mixed) + prototypes[other] * mixed + stray).clamp(0, 1)


def generate(
    num_images: int,
    size: int = 48,
    seed: int = 0,
    difficulty: float = 1.0,
    label_noise: float = 0.0,
    looks: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """A labelled set of faces (chapter 1).

    Returns images, uint8 (num_images, 1, size, size), and labels, int64 (num_images,), 0..6.
    difficulty: 0 (full prototypes, frontal, clean) to 2 (weak, mixed expressions under strong nuisance).
    label_noise: probability in [0, 1) that a label is replaced by one of the six others; no image changes.
    looks: from the labels drawn, values (num_images,) in place of some of LOOK's; all else stays (chapter 11).

    Every seven images in a row hold each class once (label noise aside): classes balance to within one image.
    The same arguments give the same bytes on a CPU, and a smaller set is the beginning of a larger one.
    """
    if num_images < 0:
        raise StoError(f"generate: num_images is {num_images}; give a whole number of 0 or more")
    _check_size(size)
    if not 0 <= difficulty <= 2:
        raise StoError(f"generate: difficulty is {difficulty}; give a number from 0 (clean) to 2 (hard)")
    if not 0 <= label_noise < 1:
        raise StoError(f"generate: label_noise is {label_noise}; give a share of the labels in [0, 1)")
    root = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**31, (4,), generator=root).tolist()
    # A stream for each purpose, so that a smaller set is the beginning of a larger one.
    order, faces, noise, relabel = (torch.Generator().manual_seed(s) for s in seeds)
    classes = len(EXPRESSIONS)
    rounds = torch.rand(-(-num_images // classes), classes, generator=order, dtype=torch.float64)
    labels = rounds.argsort(dim=1).flatten()[:num_images]
    n_units = 3 + 2 * len(ACTION_UNITS)
    u = torch.rand(num_images, len(LOOK) + len(SCENE) + n_units + 3, generator=faces, dtype=torch.float64)
    u_look, u_scene, u_units, u_more = u.split([len(LOOK), len(SCENE), n_units, 3], dim=1)
    low, high = torch.tensor(list(LOOK.values()), dtype=torch.float64).T
    look = _columns(low + (high - low) * u_look, list(LOOK))
    if looks:
        _known("generate", "look", given := looks(labels), LOOK)
        look |= {name: values.float().view(-1, 1, 1) for name, values in given.items()}
    reach = difficulty * torch.tensor(list(SCENE.values()), dtype=torch.float64)
    scene = _columns((2 * u_scene - 1) * reach, list(SCENE))
    occluded = (u_more[:, :1] < OCCLUDED * difficulty) * (0.18 + 0.14 * u_more[:, 1:2])
    scene |= _columns(torch.cat([occluded, u_more[:, 1:]], 1), ["occluder", "occluder_tone", "grain"])
    au = _columns(_sample_units(labels, u_units, difficulty), list(ACTION_UNITS))
    images = torch.empty(num_images, 1, size, size, dtype=torch.uint8)
    step = max(1, CHUNK // size**2)
    for start in range(0, num_images, step):
        part = slice(start, start + step)
        units, who, where = ({k: v[part] for k, v in table.items()} for table in (au, look, scene))
        tones = render(units, who, where, size)
        grain = torch.rand(len(tones), 2, size, size, generator=noise).sum(dim=1) - 1  # triangular, -1..1
        tones = tones + NOISE * difficulty * scene["grain"][part] * grain
        images[part] = _to_bytes(tones)
    if label_noise:
        r = torch.rand(num_images, 2, generator=relabel, dtype=torch.float64)
        wrong = (labels + 1 + (r[:, 1] * (classes - 1)).long()) % classes
        labels = torch.where(r[:, 0] < label_noise, wrong, labels)
    return images, labels


def draw(
    action_units: Tensor | Mapping[int, float],
    size: int = 160,
    identity: int | None = None,
    look: Mapping[str, float] | None = None,
    scene: Mapping[str, float] | None = None,
) -> Tensor:
    """Draw faces from action-unit intensities: what a slider turns (chapter 1).

    action_units: {FACS number: intensity in [0, 1]} for one face, or a (B, 15) tensor in ACTION_UNITS' order.
    identity: None for the average face, or a seed for a person, the same one in all B images.
    look, scene: values in place of some of LOOK's (who) and SCENE's (pose, light; else 0: clean, frontal).
    Returns uint8 (B, 1, size, size).
    """
    if isinstance(action_units, Tensor):
        units = action_units.double()
    else:
        units = torch.tensor([[float(action_units.get(k, 0.0)) for k in ACTION_UNITS]], dtype=torch.float64)
        _known("draw", "action unit", action_units, ACTION_UNITS)
    if units.dim() != 2 or units.shape[1] != len(ACTION_UNITS):
        raise StoError(f"draw: action_units has shape {tuple(units.shape)}; give (B, {len(ACTION_UNITS)})")
    outside = [k for i, k in enumerate(ACTION_UNITS) if not ((units[:, i] >= 0) & (units[:, i] <= 1)).all()]
    if outside:
        raise StoError(f"draw: the intensity of action unit {outside[0]} lies outside [0, 1]")
    _check_size(size)
    share = torch.full((len(LOOK),), 0.5)
    if identity is not None:
        share = torch.rand(len(LOOK), generator=torch.Generator().manual_seed(identity))
    who = {
        name: low + (high - low) * s
        for (name, (low, high)), s in zip(LOOK.items(), share.tolist(), strict=True)
    }
    where = dict.fromkeys([*SCENE, "occluder", "occluder_tone"], 0.0)
    _known("draw", "look", look or {}, who)
    _known("draw", "scene", scene or {}, where)
    who |= look or {}
    where |= scene or {}
    fixed = [_columns(torch.tensor([list(t.values())]), list(t)) for t in (who, where)]
    return _to_bytes(render(_columns(units, list(ACTION_UNITS)), fixed[0], fixed[1], size))


def _check_size(size: int) -> None:
    if size < 8:
        raise StoError(f"faces: size is {size}; a face needs at least 8 pixels")


def _known(where: str, kind: str, given: Mapping, known: Mapping) -> None:
    """Refuse names that do not exist."""
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        raise StoError(
            f"{where}: no {kind} is called {', '.join(unknown)}; there are {', '.join(map(str, known))}"
        )
