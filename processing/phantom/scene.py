"""One phantom image while it is drawn, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

# What SLAKE's questions call an organ, and the labels of the boxes that make it up.
GROUPS = {
    "Lung": ("Left Lung", "Right Lung"),
    "Kidney": ("Left Kidney", "Right Kidney"),
    "Heart": ("Heart",),
    "Liver": ("Liver",),
    "Spleen": ("Spleen",),
    "Brain": ("Brain",),
    "Small Bowel": ("Small Bowel",),
    "Spinal Cord": ("Spinal Cord",),
}

Window = Any  # an index into a grid: a pair of slices, or ... for all of it


class Kind(NamedTuple):
    """A kind of image.

    Attributes:
        draw: draws the body into a scene; the number counts the images of this kind.
        location: SLAKE's field.
        modality: SLAKE's field.
        region: SLAKE's answer to "Which organ system is imaged?"
        plane: of the scan.
        blur: radius in pixels of an image of 224 pixels.
        grain: standard deviation of the noise, of grey levels 0 to 1.
    """

    draw: Callable[[Scene, int], None]
    location: str
    modality: str
    region: str
    plane: str
    blur: float
    grain: float


class Finding(NamedTuple):
    """A lesion or another abnormality.

    Attributes:
        label: SLAKE's name.
        organ: label of the organ that has it.
        mask: its pixels, bool ``(size, size)``.
    """

    label: str
    organ: str
    mask: np.ndarray


@dataclass
class Scene:
    """One image while it is drawn, with what is known about it.

    Coordinates run from -1 to 1, x to the right and y down; `x` and `y` are float32 grids of shape ``(size, size)``
    bent by the pose of this patient. A "shape" is a grid of distances to its outline, positive inside: minimum is
    intersection, maximum is union.

    Attributes:
        kind: of the image.
        size: pixels along a side.
        rng: draws all that differs between patients.
        weighting: T1 or T2, of an MRI.
        organs: bool masks ``(size, size)`` by label.
        findings: of all organs.
        image: grey levels ``(size, size)``, 0 to 1.
    """

    kind: Kind
    size: int
    rng: np.random.Generator
    weighting: str | None = None
    organs: dict[str, np.ndarray] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        axis = np.linspace(-1, 1, self.size, dtype=np.float32)
        angle, scale = self.rng.uniform(-0.07, 0.07), self.rng.uniform(0.98, 1.12)
        shift_x, shift_y = self.rng.uniform(-0.035, 0.035, 2).tolist()
        column, row = scale * (axis[None, :] - shift_x), scale * (axis[:, None] - shift_y)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        self.x = cos * column + sin * row + 0.012 * self.noise(6)
        self.y = cos * row - sin * column + 0.012 * self.noise(6)
        self.image: np.ndarray = np.zeros((self.size, self.size), dtype=np.float32)

    def noise(self, cells: int) -> np.ndarray:
        """A smooth random field of shape ``(size, size)``, about -2 to 2, with `cells` bumps along a side."""
        coarse = Image.fromarray(self.rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def vary(self, value: float, part: float = 0.1) -> float:
        """`value` changed by up to `part` of itself."""
        return float(value * self.rng.uniform(1 - part, 1 + part))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, boxy: bool = False, window: Window = ...
    ) -> np.ndarray:
        """The shape of an ellipse at (cx, cy), turned by `turn` radians; `boxy` pulls it halfway to a rectangle."""
        # In place where it can be: large temporaries are what drawing spends its time on.
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        x, y = self.x[window], self.y[window]
        u, v = x * (cos / rx), x * (-sin / ry)
        u += y * (sin / rx) - (cos * cx + sin * cy) / rx
        v += y * (cos / ry) - (cos * cy - sin * cx) / ry
        u *= u
        v *= v
        radius = np.sqrt(u + v)
        if boxy:
            radius = 0.5 * (radius + np.sqrt(np.sqrt(u * u + v * v)))
        radius *= -min(rx, ry)
        radius += min(rx, ry)
        return radius

    def paint(
        self, shape: np.ndarray, value: float | np.ndarray, soft: float = 0, strength: float = 1, window: Window = ...
    ) -> None:
        """Lays grey `value` (0 to 1) over `shape`, its edge blended over `soft` units (at least two pixels)."""
        alpha = shape * (1 / max(soft, 4 / self.size))
        alpha += 0.5
        np.clip(alpha, 0, 1, out=alpha)
        alpha *= strength
        alpha *= value - self.image[window]
        self.image[window] += alpha

    def dab(self, ellipse: Sequence[float], value: float, soft: float = 0, strength: float = 1) -> None:
        """Paints an ellipse (cx, cy, rx, ry and maybe turn) in one grey, touching only the pixels around it."""
        (cx, cy, rx, ry), turn = ellipse[:4], ellipse[4] if len(ellipse) > 4 else 0.0
        reach = max(rx, ry) + soft + 0.3  # no pose moves a point by more than 0.3
        edges = ((np.array([cy - reach, cy + reach, cx - reach, cx + reach]) + 1) * self.size / 2).clip(0).astype(int)
        window = slice(edges[0], edges[1]), slice(edges[2], edges[3])
        self.paint(self.ellipse(cx, cy, rx, ry, turn, window=window), value, soft, strength, window)

    def organ(self, label: str, shape: np.ndarray, value: float | np.ndarray, soft: float = 0.0) -> None:
        """Paints an organ and keeps its mask; organs below it lose the pixels that it covers."""
        self.paint(shape, value, soft)
        mask = shape > 0
        for other in self.organs.values():
            other &= ~mask
        self.organs[label] = mask

    def finding(self, label: str, organ: str, shape: np.ndarray, value: float | np.ndarray, soft: float = 0.0) -> None:
        """Paints a lesion of `organ` and keeps its mask."""
        self.paint(shape, value, soft)
        self.findings.append(Finding(label, organ, shape > 0))

    def spot(self, shape: np.ndarray, margin: float) -> tuple[float, float]:
        """A random place at least `margin` inside `shape`, or near its deepest point where it is too thin."""
        inside = np.flatnonzero(shape > min(margin, 0.8 * float(shape.max())))
        at = self.rng.choice(inside)
        return float(self.x.flat[at]), float(self.y.flat[at])

    def finish(self) -> Image.Image:
        """The RGB image, with noise, exposure and blur of the scanner; `image` becomes what it shows."""
        white = self.rng.standard_normal(self.image.shape, dtype=np.float32)
        self.image += self.kind.grain * white * (0.3 + self.image)
        exposed = np.clip(self.image * self.rng.uniform(0.92, 1.06), 0, 1)
        picture = Image.fromarray((exposed * 255).astype(np.uint8))
        picture = picture.filter(ImageFilter.GaussianBlur(self.kind.blur * self.size / 224))
        self.image = np.asarray(picture, dtype=np.float32) / 255
        return picture.convert("RGB")

    def area(self, group: str) -> int:
        """Pixels of an organ as the questions call it (both lungs are "Lung")."""
        return sum(int(self.organs[label].sum()) for label in GROUPS[group] if label in self.organs)

    def boxes(self) -> list[dict[str, list[float]]]:
        """SLAKE's boxes, ``[{label: [x, y, width, height]}]`` in pixels, each tight around its mask."""
        marked = [*self.organs.items(), *((finding.label, finding.mask) for finding in self.findings)]
        return [{label: tight_box(mask)} for label, mask in marked]


def tight_box(mask: np.ndarray) -> list[float]:
    """``[x, y, width, height]`` in pixels of the smallest box around a bool mask of shape ``(height, width)``."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]
