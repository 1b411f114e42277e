"""One phantom image while it is drawn, and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

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
Ellipse = tuple[float, float, float, float, float]  # cx, cy, rx, ry, turn in radians
T = TypeVar("T")

GRAZED = 0.0006  # of the image: a smaller section of a lesion isn't seen


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
        spacing: between neighbouring slices of a patient, in the units of a scene.
    """

    draw: Callable[[Scene, int], None]
    location: str
    modality: str
    region: str
    plane: str
    blur: float
    grain: float
    spacing: float

    @property
    def projects(self) -> bool:
        """Whether an image shows the whole depth of the body instead of a slice."""
        return self.modality == "X-Ray"


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

    A body has a third dimension, `level`, in the same units. What is drawn without regard to it, the outline of the
    body above all, is the same in all slices. At level 0 everything has the size and place that it is drawn with.

    Attributes:
        kind: of the image.
        size: pixels along a side.
        rng: draws all that differs between patients, and what one image alone has.
        level: of the slice, 0 in the middle of the patient's slices.
        top: level of the patient's last slice; 0 for a body of one slice.
        drift: draws how a body changes along its levels.
        middle: the same body at level 0, already drawn; None while that is drawn.
        weighting: T1 or T2, of an MRI.
        organs: bool masks ``(size, size)`` by label.
        findings: of all organs.
        image: grey levels ``(size, size)``, 0 to 1.
    """

    kind: Kind
    size: int
    rng: np.random.Generator
    level: float = 0.0
    top: float = 0.0
    drift: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    middle: Scene | None = None
    weighting: str | None = None
    organs: dict[str, np.ndarray] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        axis = np.linspace(-1, 1, self.size, dtype=np.float32)
        angle, scale = self.rng.uniform(-0.07, 0.07), self.rng.uniform(0.98, 1.12)
        shift_x, shift_y = self.rng.uniform(-0.035, 0.035, 2).tolist()
        column, row = scale * (axis[None, :] - shift_x), scale * (axis[:, None] - shift_y)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))
        # The outline of a body bends alike at all levels.
        self.x = cos * column + sin * row + 0.012 * self._enlarge(self._white(6))
        self.y = cos * row - sin * column + 0.012 * self._enlarge(self._white(6))
        self.image: np.ndarray = np.zeros((self.size, self.size), dtype=np.float32)
        self._drawn: list[tuple[Any, Any]] = []  # by `once`: what, and the state of `rng` afterwards
        self._replayed: Iterator[tuple[Any, Any]] = iter(self.middle._drawn if self.middle else ())

    def _white(self, cells: int) -> np.ndarray:
        return self.rng.standard_normal((cells, cells), dtype=np.float32)

    def _enlarge(self, coarse: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(coarse).resize((self.size, self.size), Image.Resampling.BICUBIC))

    def once(self, draw: Callable[[], T]) -> T:
        """What `draw` gives at level 0, for all slices of a patient: draws that depend on what is painted so far."""
        if self.middle is None:
            drawn = draw()
            self._drawn.append((drawn, self.rng.bit_generator.state))
        else:
            drawn, self.rng.bit_generator.state = next(self._replayed)
        return drawn

    def noise(self, cells: int) -> np.ndarray:
        """A smooth random field of shape ``(size, size)``, about -2 to 2, with `cells` bumps along a side.

        It turns into another one over levels that are about as far apart as its bumps.
        """
        white, other = self._white(cells), self.drift.standard_normal((cells, cells), dtype=np.float32)
        angle = 0.5 * cells * self.level
        return self._enlarge(math.cos(angle) * white + math.sin(angle) * other)

    def vary(self, value: float, part: float = 0.1) -> float:
        """`value` changed by up to `part` of itself."""
        return float(value * self.rng.uniform(1 - part, 1 + part))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def section(self, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> Ellipse:
        """What an ellipse of level 0 is at this level: a section of an ellipsoid whose axis is oblique."""
        *slopes, centre = self.drift.uniform(-0.4, 0.4, 3).tolist()
        # Its centre lies at up to 0.4 of its half height, which is 1.5 times the larger radius.
        square = 1 - (self.level / (1.5 * max(rx, ry)) - centre) ** 2
        scale = math.sqrt(max(square, 0.05) / (1 - centre**2))
        return cx + slopes[0] * self.level, cy + slopes[1] * self.level, scale * rx, scale * ry, turn

    def height_over(self, radius: float) -> float:
        """How high this slice lies over the centre of a lesion, in radii of it.

        The centre may lie outside the patient's slices. Of a projection, which has no slices, it is 0.
        """
        centre = 2 * self.top * self.drift.uniform(-1, 1)
        return 0.0 if self.kind.projects else (self.level - centre) / radius

    def ellipse(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turn: float = 0.0,
        boxy: bool = False,
        window: Window = ...,
        height: float = 0.0,
    ) -> np.ndarray:
        """The shape of an ellipse at (cx, cy), turned by `turn` radians.

        Args:
            boxy: pulls it halfway to a rectangle.
            height: over the centre of an ellipsoid whose largest section it is, in half heights; beyond 1 it is empty.
        """
        # In place where it can be: large temporaries are what drawing spends its time on.
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        x, y = self.x[window], self.y[window]
        u, v = x * (cos / rx), x * (-sin / ry)
        u += y * (sin / rx) - (cos * cx + sin * cy) / rx
        v += y * (cos / ry) - (cos * cy - sin * cx) / ry
        u *= u
        v *= v
        u += height * height
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

    def finding(self, label: str, organ: str, shape: np.ndarray, value: float | np.ndarray, soft: float = 0.0) -> bool:
        """Paints a lesion of `organ` and keeps its mask; False where a slice of a patient misses or grazes it."""
        mask = shape > 0
        if self.top and mask.mean() < GRAZED:
            return False
        self.paint(shape, value, soft)
        self.findings.append(Finding(label, organ, mask))
        return True

    def spot(self, shape: np.ndarray, margin: float) -> tuple[float, float]:
        """A random place at least `margin` inside `shape`, or near its deepest point where it is too thin.

        All slices of a patient have that of level 0.
        """

        def draw() -> tuple[float, float]:
            inside = np.flatnonzero(shape > min(margin, 0.8 * float(shape.max())))
            at = self.rng.choice(inside)
            return float(self.x.flat[at]), float(self.y.flat[at])

        return self.once(draw)

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
