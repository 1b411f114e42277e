"""Phantom CT, MRI and X-ray images with organs, lesions, boxes and questions, in SLAKE's own format.

    python -m processing.phantom FOLDER --num_images 60 --seed 0 --image_size 224

Everything is drawn from a seed with numpy and Pillow, so it needs no download and every answer is known to be true.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from processing.errors import UserError, run_command
from processing.topics import Topic, what, which, yes_no
from processing.utils import cache_dir

DRAWING = 1  # counts the changes of what is drawn, so that a set in the cache is never an older one
SPLITS = ("train", "validate", "test")
# Of every seven images of a kind, this is where each goes: the first three already fill every split.
SPLIT_CYCLE = ("train", "validate", "test", "train", "train", "train", "train")
# What the images of a kind show, in turn. No length shares a factor with SPLIT_CYCLE, so every split sees it all.
CHEST_CT_CYCLE = ("Effusion", "None", "Nodule", "None", "Pneumonia", "Atelectasis", "Nodule", "None")
XRAY_CYCLE = ("Nodule", "None", "Effusion", "Cardiomegaly", "Pneumonia", "Atelectasis", "None", "Nodule")
BRAIN_CYCLE = ("None", "Tumor", "Edema", "None", "Tumor")
MIN_IMAGES = 12  # four kinds of image times three splits
IMAGE_SIZES = (96, 1024)  # smaller images lose the lesions; SLAKE's own largest is 1024
QUESTIONS = (10, 14)  # per image, both ends included
# Answers that would fill the data set if every image were asked the same: they wait until rarer ones had their turn.
COMMON = ("Transverse Plane", "CT", "Chest", "Head", "Lung", "Left Lung", "Right Lung", "None", "0")
GROUPS = {  # what SLAKE's questions call an organ: the boxes that make it up
    "Lung": ("Left Lung", "Right Lung"),
    "Kidney": ("Left Kidney", "Right Kidney"),
    **{organ: (organ,) for organ in ("Heart", "Liver", "Spleen", "Brain", "Small Bowel", "Spinal Cord")},
}
SIDES = (("Right", -1.0), ("Left", 1.0))  # radiological: the patient's right lies to the left in the image

Window = Any  # an index into a grid: a pair of slices, or ... for all of it


class Kind(NamedTuple):
    draw: Callable[[Scene, int], None]
    location: str  # SLAKE's field
    modality: str
    region: str  # SLAKE's answer to "Which organ system is imaged?"
    plane: str
    blur: float  # pixels at 224
    grain: float  # standard deviation of the noise, of grey levels 0 to 1


@dataclass
class Scene:
    """One image while it is drawn, with what is known about it.

    Coordinates run from -1 to 1, x to the right and y down; `x` and `y` are float32 grids of shape ``(size, size)``
    bent by the pose of this patient. A "shape" is a grid of distances to its outline, positive inside: minimum is
    intersection, maximum is union.
    """

    kind: Kind
    size: int  # pixels
    rng: np.random.Generator
    weighting: str | None = None
    organs: dict[str, np.ndarray] = field(default_factory=dict)  # label: bool mask (size, size)
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
        return bool(self.rng.random() < probability)

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, boxy: bool = False, window: Window = ...
    ) -> np.ndarray:
        """Shape of an ellipse at (cx, cy), turned by `turn` radians; `boxy` pulls it halfway to a rectangle."""
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
        """Lay grey `value` (0 to 1) over `shape`, its edge blended over `soft` units (at least two pixels)."""
        alpha = shape * (1 / max(soft, 4 / self.size))
        alpha += 0.5
        np.clip(alpha, 0, 1, out=alpha)
        alpha *= strength
        alpha *= value - self.image[window]
        self.image[window] += alpha

    def dab(self, ellipse: Sequence[float], value: float, soft: float = 0, strength: float = 1) -> None:
        """Paint an ellipse (cx, cy, rx, ry and maybe turn) in one grey, touching only the pixels around it."""
        (cx, cy, rx, ry), turn = ellipse[:4], ellipse[4] if len(ellipse) > 4 else 0.0
        reach = max(rx, ry) + soft + 0.3  # no pose moves a point by more than 0.3
        edges = ((np.array([cy - reach, cy + reach, cx - reach, cx + reach]) + 1) * self.size / 2).clip(0).astype(int)
        window = slice(edges[0], edges[1]), slice(edges[2], edges[3])
        self.paint(self.ellipse(cx, cy, rx, ry, turn, window=window), value, soft, strength, window)

    def organ(self, label: str, shape: np.ndarray, value: float | np.ndarray, soft: float = 0.0) -> None:
        """Paint an organ and keep its mask; what lies on top takes the pixels from the organs below."""
        self.paint(shape, value, soft)
        mask = shape > 0
        for other in self.organs.values():
            other &= ~mask
        self.organs[label] = mask

    def finding(self, label: str, organ: str, shape: np.ndarray, value: float | np.ndarray, soft: float = 0.0) -> None:
        """Paint a lesion of `organ` and keep its mask."""
        self.paint(shape, value, soft)
        self.findings.append(Finding(label, organ, shape > 0))

    def spot(self, shape: np.ndarray, margin: float) -> tuple[float, float]:
        """A random place at least `margin` inside `shape`, or near its deepest point where it is too thin."""
        inside = np.flatnonzero(shape > min(margin, 0.8 * float(shape.max())))
        at = self.rng.choice(inside)
        return float(self.x.flat[at]), float(self.y.flat[at])

    def finish(self) -> Image.Image:
        """The RGB image, with noise, exposure and blur of the scanner; `image` becomes what it shows, 0 to 1."""
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


class Finding(NamedTuple):
    label: str
    organ: str
    mask: np.ndarray  # bool (size, size)


def tight_box(mask: np.ndarray) -> list[float]:
    """``[x, y, width, height]`` in pixels of the smallest box around a bool mask of shape ``(height, width)``."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [float(x), float(y), float(columns[-1] - x + 1), float(rows[-1] - y + 1)]


def draw_trunk(scene: Scene, air: float, fat: float, muscle: float, bone: float) -> np.ndarray:
    """Skin, fat, wall, ribs and table of an axial CT; returns the shape of the cavity within."""
    rng, depth = scene.rng, scene.rng.uniform(0.03, 0.1)
    table = scene.ellipse(0, -0.75, 1.6, scene.vary(1.5, 0.03))
    scene.paint(0.012 - np.abs(table), muscle, strength=0.8)
    body = scene.ellipse(0, 0, scene.vary(0.88, 0.05), scene.vary(0.62, 0.07), boxy=True)
    scene.paint(body, muscle)
    scene.paint(body - 0.02, fat + 0.03 * scene.noise(20))
    wall = body - 0.02 - depth
    scene.paint(wall, muscle + 0.02 * scene.noise(40))
    ring = np.abs(wall - 0.075)
    angle = np.arctan2(scene.y, scene.x)
    ribs = 0.05 * np.cos(angle * int(rng.integers(9, 13)) + rng.uniform(0, 6) + scene.noise(5)) - 0.02
    scene.paint(np.minimum(0.022 - ring, ribs), bone, soft=0.02)
    for _, side in SIDES:
        scene.dab((side * 0.16, 0.46, 0.15, 0.09), muscle)
    return wall - 0.1


def draw_spine(scene: Scene, bone: float, marrow: float, cord: float) -> None:
    """An axial vertebra with its processes and the spinal cord."""
    at = scene.vary(0.31, 0.06)
    for _, side in SIDES:
        scene.dab((side * 0.13, at + 0.12, 0.1, 0.028, side * 0.35), bone)
    scene.dab((0, at + 0.2, 0.022, 0.08), bone)
    scene.dab((0, at + 0.115, 0.085, 0.06), bone)
    body = scene.ellipse(0, at, scene.vary(0.115), 0.09, boxy=True)
    scene.paint(body, bone)
    scene.paint(body - 0.022, marrow + 0.05 * scene.noise(48), soft=0.03)
    scene.organ("Spinal Cord", scene.ellipse(0, at + 0.12, 0.043, 0.035), cord)


def draw_vessels(scene: Scene, lungs: dict[str, np.ndarray], value: float, width: float) -> None:
    """Branching vessels from each hilum, thinning outwards."""
    half, rng = scene.size / 2, scene.rng
    layer = Image.new("L", (scene.size, scene.size))
    pen = ImageDraw.Draw(layer)
    for lung in lungs.values():
        inside = np.flatnonzero(lung > 0.02)
        if not inside.size:
            continue
        ends = np.stack([inside % scene.size, inside // scene.size], axis=1)[rng.integers(0, inside.size, 22)]
        hilum = np.array([half + 0.45 * (ends[:, 0].mean() - half), ends[:, 1].mean()])
        for end in ends:
            root = hilum + rng.normal(0, 0.04 * half, 2)
            knee = root + rng.uniform(0.3, 0.7) * (end - root) + rng.normal(0, 0.06 * half, 2)
            thick = width * half * rng.uniform(0.6, 1.2)
            pen.line([*root, *knee], fill=255, width=max(1, round(thick)))
            pen.line([*knee, *end], fill=int(rng.integers(90, 200)), width=max(1, round(thick / 2)))
            pen.ellipse([*(knee - thick / 2), *(knee + thick / 2)], fill=255)
    blurred = layer.filter(ImageFilter.GaussianBlur(0.7 * scene.size / 224))
    inside = np.clip(np.max(list(lungs.values()), axis=0) / 0.02, 0, 1)
    scene.image += np.asarray(blurred, dtype=np.float32) / 255 * inside * (value - scene.image)


def lung_findings(scene: Scene, lungs: dict[str, np.ndarray], disease: str, value: float, dependent: float) -> None:
    """Draw `disease` into one of the two lungs.

    Args:
        lungs: label to shape, of the lungs as a healthy patient has them.
        disease: SLAKE's name of the finding; an unknown one draws nothing.
        value: grey level of consolidated lung or fluid.
        dependent: y from which fluid gathers.
    """
    label = str(scene.rng.choice(list(lungs)))
    lung = lungs[label]
    if disease == "Nodule":
        for _ in range(scene.rng.integers(1, 3)):
            radius = scene.rng.uniform(0.055, 0.085)
            cx, cy = scene.spot(lung, 1.2 * radius)
            nodule = scene.ellipse(cx, cy, radius, scene.vary(radius, 0.15))
            # A second nodule on top of the first would count as one.
            if not any(mask[nodule > -0.05].any() for _, _, mask in scene.findings):
                scene.finding("Nodule", label, nodule, value, soft=0.035)
    elif disease == "Effusion":
        bowl = dependent + 0.12 - 0.9 * np.square(scene.x - 0.1 * np.sign(scene.x))
        scene.finding("Effusion", label, np.minimum(lung + 0.02, scene.y - bowl), value, soft=0.04)
    elif disease == "Pneumonia":
        radius = scene.rng.uniform(0.16, 0.22)
        cx, cy = scene.spot(lung, radius)
        patch = scene.ellipse(cx, cy, radius, radius * 1.15) + 0.02 * scene.noise(14)
        scene.finding("Pneumonia", label, np.minimum(lung, patch), value - 0.1 + 0.08 * scene.noise(30), soft=0.12)
    elif disease == "Atelectasis":
        scene.finding("Atelectasis", label, lung + 0.02, value + 0.02 * scene.noise(12), soft=0.05)
        scene.organs.pop(label)


def chest_ct(scene: Scene, turn: int) -> None:
    """Axial chest CT in a lung window (grey vessels, white heart) or a soft-tissue window (black lungs)."""
    wide = scene.chance(0.55)
    air, fat, muscle, bone = (0.13, 0.68, 0.8, 0.97) if wide else (0.02, 0.2, 0.46, 0.95)
    lung_grey, heart_grey = (0.2, 0.88) if wide else (0.05, 0.56)
    scene.image += air
    cavity = draw_trunk(scene, air, fat, muscle, bone)
    heart = scene.ellipse(0.12, -0.1, scene.vary(0.24), scene.vary(0.19), scene.rng.uniform(0.2, 0.7))
    lungs = {}
    for name, side in SIDES:
        lobe = scene.ellipse(side * 0.42, -0.02, scene.vary(0.33, 0.06), scene.vary(0.46, 0.06), side * -0.1)
        lungs[f"{name} Lung"] = np.minimum(np.minimum(cavity, lobe), -heart - 0.01)
    for label, lung in lungs.items():
        scene.organ(label, lung, lung_grey + 0.02 * scene.noise(24))
    draw_vessels(scene, lungs, 0.85 if wide else 0.3, 0.028)
    scene.organ("Heart", heart, heart_grey + 0.015 * scene.noise(12))
    draw_spine(scene, bone, bone - 0.15, muscle - 0.02)
    scene.dab((0.12, 0.19, scene.vary(0.06), 0.06), heart_grey + 0.04)
    scene.dab((0.02, 0.13, 0.035, 0.025), muscle)
    for _, side in SIDES:
        scene.dab((side * 0.075, 0.06, 0.032, 0.026), air)
        scene.dab((side * 0.68, 0.33, 0.15, 0.016, side * -0.75), bone)
    scene.dab((0, -0.49, 0.09, 0.03), bone)
    lung_findings(scene, lungs, CHEST_CT_CYCLE[turn % 8], muscle, dependent=0.12)


def abdomen_ct(scene: Scene, turn: int) -> None:
    """Axial abdominal CT: liver, spleen and kidneys come and go with the level of the slice and the patient."""
    rng = scene.rng
    air, fat, muscle, bone = 0.02, scene.vary(0.16, 0.2), 0.44, 0.95
    cavity = draw_trunk(scene, air, fat, muscle, bone)
    scene.paint(cavity, fat + 0.02 * scene.noise(40))
    has_liver = turn % 4 != 1  # below it the slice shows bowel
    organ_grey = scene.vary(0.54, 0.06)
    draw_spine(scene, bone, 0.68, 0.42)
    scene.dab((0.05, 0.16, 0.05, 0.05), 0.72)
    scene.dab((-0.08, 0.16, 0.055, 0.042), 0.58)
    scene.paint(scene.ellipse(0.03, 0.02, 0.2, 0.045, 0.2), 0.44 + 0.04 * scene.noise(30), soft=0.03)
    if has_liver:
        stomach = np.minimum(cavity, scene.ellipse(0.3, -0.2, scene.vary(0.2), scene.vary(0.16), 0.3))
        scene.organ("Stomach", stomach, 0.46)
        scene.paint(stomach - 0.02, 0.4 + 0.02 * scene.noise(20))
        scene.paint(np.minimum(stomach - 0.02, -0.24 - scene.y), air)
        right = scene.ellipse(-0.42, -0.03, scene.vary(0.33), scene.vary(0.36), 0.2)
        left = scene.ellipse(-0.1, -0.24, scene.vary(0.33), scene.vary(0.13), 0.15)
        liver = np.minimum(cavity, np.maximum(right, left))
        scene.organ("Liver", liver, organ_grey + 0.02 * scene.noise(30))
        for _ in range(5):
            cx, cy = scene.spot(liver, 0.06)
            scene.dab((cx, cy, 0.07, 0.01, rng.uniform(0, 3)), organ_grey + 0.08, soft=0.03)
    else:
        # Loops are the hills of a random field, filled with gas, fluid or contrast medium as another field has it.
        folds = 0.05 * scene.noise(20) + 0.015
        front = scene.ellipse(0, -0.16, 0.55, 0.24)
        bowel = np.minimum(np.minimum(front, cavity), folds)
        filling = np.array([0.08, 0.46, 0.8], dtype=np.float32)[np.digitize(scene.noise(8), [-0.8, 0.2])]
        scene.organ("Small Bowel", bowel, organ_grey)
        scene.paint(bowel - 0.022, filling)
    if scene.chance(0.55):
        spleen = np.minimum(cavity, scene.ellipse(0.57, 0.08, scene.vary(0.13), scene.vary(0.25), -0.25))
        scene.organ("Spleen", spleen, organ_grey + 0.04 + 0.015 * scene.noise(16))
    enhanced = 0.28 if scene.chance(0.5) else 0.04
    sides = [SIDES, SIDES[:1], SIDES[1:], SIDES, ()][rng.integers(5)]
    for name, side in sides:
        kidney = scene.ellipse(side * 0.31, 0.24, scene.vary(0.13), scene.vary(0.11), side * 0.6)
        scene.paint(kidney + 0.035, fat)
        scene.organ(f"{name} Kidney", kidney, organ_grey + enhanced)
        scene.dab((side * 0.25, 0.22, 0.06, 0.045), organ_grey - 0.05, soft=0.04)
    if has_liver and turn % 3:
        liver_lesions(scene, np.minimum(np.minimum(liver, right), 0.08 - scene.y), organ_grey)  # clear of the kidney


def liver_lesions(scene: Scene, liver: np.ndarray, grey: float) -> None:
    """One or two lesions, darker or brighter than the tissue."""
    value = grey + (-0.3 if scene.chance(0.5) else 0.34)
    for _ in range(scene.rng.integers(1, 3)):
        radius = scene.rng.uniform(0.06, 0.1)
        cx, cy = scene.spot(liver, 1.3 * radius)
        lesion = np.minimum(liver, scene.ellipse(cx, cy, radius, scene.vary(radius, 0.2)) + 0.006 * scene.noise(24))
        scene.finding("Liver Cancer", "Liver", lesion, value + 0.02 * scene.noise(30), soft=0.03)


def brain_mri(scene: Scene, turn: int) -> None:
    """Axial brain MRI, T1 or T2 weighted, with or without the skull around it."""
    rng = scene.rng
    scene.weighting = ("T1", "T2")[turn % 2]
    bright = scene.weighting == "T2"
    fluid, grey, white = (0.85, 0.46, 0.33) if bright else (0.1, 0.38, 0.52)
    rx, ry = scene.vary(0.58, 0.05), scene.vary(0.7, 0.05)
    head = scene.ellipse(0, 0, rx, ry, boxy=scene.chance(0.3))
    if scene.chance(0.6):
        scene.paint(head + 0.17, 0.3)
        scene.paint(head + 0.155, 0.72 + 0.06 * scene.noise(16))
        scene.paint(head + 0.1, 0.05)
        scene.paint(head + 0.03, fluid)
    # Distance to the nearest water: the surface, a furrow (where a random field crosses zero) or the midline.
    brain = head + 0.01 * scene.noise(24)
    furrow = 0.05 * np.abs(scene.noise(24)) + np.maximum(0.6 * brain - 0.12, 0)
    midline = np.abs(scene.x + 0.006 * scene.noise(12)) + np.maximum(0.34 - np.abs(scene.y), 0)
    cortex = np.minimum(np.minimum(brain, furrow), midline + 0.01)
    scene.organ("Brain", brain, fluid)
    scene.paint(np.minimum(brain, cortex - 0.014), grey, soft=0.02)
    scene.paint(np.minimum(brain, cortex - 0.042), white + 0.015 * scene.noise(20), soft=0.03)
    wide = scene.vary(1.0, 0.35)
    for _, side in SIDES:
        scene.dab((side * 0.14, 0.03, 0.08, 0.13, side * -0.4), grey, soft=0.04)
        scene.dab((side * 0.075, -0.13, 0.036 * wide, 0.15, side * 0.35), fluid, soft=0.025)
        scene.dab((side * 0.16, 0.22, 0.04 * wide, 0.17, side * -0.5), fluid, soft=0.025)
    scene.dab((0, 0.06, 0.014, 0.08), fluid)
    disease = BRAIN_CYCLE[turn // 2 % 5]
    if disease == "None":
        return
    name, side = SIDES[rng.integers(2)]
    radius = rng.uniform(0.1, 0.15)
    half = np.minimum(brain, side * scene.x - 0.04)
    cx, cy = scene.spot(half, 1.4 * radius)
    tumor = np.minimum(half, scene.ellipse(cx, cy, radius, scene.vary(radius, 0.2)) + 0.02 * scene.noise(14))
    if disease == "Edema" or scene.chance(0.6):
        edema = np.minimum(half, tumor + 0.08 + 0.05 * scene.noise(9))
        scene.finding("Brain Edema", f"{name} Lobe", edema, 0.72 if bright else 0.24, soft=0.05)
    if disease == "Tumor":
        scene.finding("Brain Tumor", f"{name} Lobe", tumor, 0.92 + 0.05 * scene.noise(24), soft=0.03)
        core = scene.ellipse(cx + 0.02, cy - 0.01, 0.7 * radius, 0.6 * radius) + 0.025 * scene.noise(16)
        scene.paint(core, (0.6 if bright else 0.35) + 0.1 * scene.noise(30), soft=0.05)


def chest_xray(scene: Scene, turn: int) -> None:
    """Frontal chest X-ray."""
    x, y = scene.x, scene.y
    disease = XRAY_CYCLE[turn % 8]
    lung_grey = scene.vary(0.27, 0.4)
    torso = np.maximum(
        scene.ellipse(0, 0.6, scene.vary(0.84, 0.05), 1.6), scene.ellipse(0, -0.2, 1.05, 0.36, boxy=True)
    )
    scene.paint(np.maximum(torso, scene.ellipse(0, -1, 0.22, 0.5)), 0.6 + 0.04 * scene.noise(5), soft=0.12)
    for _, side in SIDES:
        scene.dab((side * 0.98, 0.3, 0.14, 0.9, side * -0.08), 0.5, soft=0.1)
        scene.dab((side * 0.95, 0.1, 0.04, 0.42, side * -0.08), 0.66, soft=0.05, strength=0.7)
        scene.dab((side * 0.87, -0.32, 0.075, 0.075), 0.72, soft=0.05)
        scene.dab((side * 0.7, -0.3, 0.11, 0.3, side * 0.3), 0.68, soft=0.08, strength=0.5)
    big = disease == "Cardiomegaly"
    heart_rx = scene.rng.uniform(0.42, 0.48) if big else scene.rng.uniform(0.24, 0.29)
    heart = scene.ellipse(0.5 * heart_rx - 0.02, 0.26, heart_rx, scene.vary(0.27), 0.35)
    domes = {name: scene.ellipse(side * 0.36, 0.95, 0.46, scene.vary(0.5 - 0.03 * side, 0.08)) for name, side in SIDES}
    heart = np.minimum(heart, 0.5 - y)
    lungs = {}
    for name, side in SIDES:
        lung = scene.ellipse(side * 0.36, 0.2, scene.vary(0.31, 0.05), scene.vary(0.95, 0.04), side * -0.04)
        scene.paint(lung, lung_grey + 0.1 * np.square(y) + 0.02 * scene.noise(10), soft=0.06)
        # Heart and diaphragm are painted over the lung below; only what they leave of it counts as lung.
        lungs[f"{name} Lung"] = np.minimum(np.minimum(lung, -heart), np.minimum(-domes[name], 0.62 - y))
        scene.organs[f"{name} Lung"] = lungs[f"{name} Lung"] > 0
    draw_vessels(scene, lungs, 0.42, 0.015)
    abdomen = np.maximum(np.maximum(domes["Left"], domes["Right"]), y - 0.62)
    scene.paint(np.minimum(abdomen, torso), 0.82 + 0.03 * scene.noise(4), soft=0.05)
    scene.dab((0.38, 0.72, 0.15, 0.09), 0.6, soft=0.08)
    scene.dab((0.02, -0.25, 0.13, 0.7), 0.72, soft=0.08)
    scene.dab((0.1, -0.3, 0.09, 0.09), 0.76, soft=0.06)
    scene.dab((0, -0.7, 0.035, 0.3), 0.5, soft=0.06)
    scene.organ("Heart", heart, 0.77 + 0.02 * scene.noise(5), soft=0.09)
    lung_findings(scene, lungs, disease, 0.78, dependent=0.22)
    if big:
        scene.findings.append(Finding("Cardiomegaly", "Heart", heart > 0))
    # Ribs, spine and collarbones shine through everything: they add light instead of covering.
    cage = np.clip(np.minimum(scene.ellipse(0, 0.0, 0.8, 1.0), 0.7 - y) / 0.05, 0, 1)
    out, pitch = np.abs(x), scene.rng.uniform(29, 33)
    back = np.clip(6 * np.cos(pitch * (y - 0.35 * out + 0.75 * out * out)) - 2.4, 0, 1)
    front = np.clip(6 * np.cos(pitch * 0.93 * (y - 0.85 * out + 0.2) + 1) - 3, 0, 1) * (out > 0.22)
    column = np.clip(8 * (0.1 - out), 0, 1) * (0.6 + 0.4 * np.cos(38 * y))
    collar = np.zeros_like(x)
    for _, side in SIDES:
        bone = scene.ellipse(side * 0.36, -0.62, 0.34, 0.03, side * -0.22)
        collar = np.maximum(collar, np.clip(bone / 0.02 + 0.5, 0, 1))
    light = cage * (0.13 * back + 0.06 * front) + 0.06 * column + 0.13 * collar
    scene.image += light * (1.05 - scene.image)
    # The film's "L", on the side of the patient's left.
    rows, columns = slice(scene.size // 16, scene.size // 9), slice(scene.size - scene.size // 12, None)
    mark = scene.image[rows, columns]
    mark[:, : scene.size // 75] = mark[-(scene.size // 75) :, : scene.size // 30] = 1


KINDS = (
    Kind(chest_ct, "Lung", "CT", "Chest", "Transverse Plane", 0.5, 0.03),
    Kind(abdomen_ct, "Abdomen", "CT", "Abdomen", "Transverse Plane", 0.5, 0.045),
    Kind(brain_mri, "Brain", "MRI", "Head", "Transverse Plane", 0.6, 0.03),
    Kind(chest_xray, "Lung", "X-Ray", "Chest", "Coronal Plane", 0.6, 0.03),
)


def draw_scene(index: int, seed: int, size: int) -> tuple[Scene, Image.Image]:
    """Phantom number `index`, which depends on nothing but the arguments."""
    turn, kind = index // len(KINDS), KINDS[index % len(KINDS)]
    scene = Scene(kind, size, np.random.default_rng([seed, index]))
    kind.draw(scene, turn)
    scene.organs = {label: mask for label, mask in scene.organs.items() if mask.any()}
    scene.findings = [finding for finding in scene.findings if finding.mask.any()]
    return scene, scene.finish()


def general_topics(scene: Scene) -> Iterator[Topic]:
    """Modality, weighting, plane and part of the body."""
    kind, weighting = scene.kind, scene.weighting
    yield what("Modality", kind.modality, "What modality is used to take this image?", "How was this image taken?")
    for modality in ("MRI", "X-Ray"):
        is_this = f"Is this {'an' if modality == 'MRI' else 'a'} {modality}?"
        yield yes_no("Modality", modality == kind.modality, is_this, f"Is this image taken via {modality}?")
    if weighting:
        mri = ("What is the mr weighting in this image?", "What type of MRI is shown in this image?")
        yield what("Modality", weighting, *mri)
        for one in ("T1", "T2"):
            yield yes_no("Modality", one == weighting, f"Is this an MRI image with {one} weighted?")
    scan = ("What is the scanning plane of this image?", "In what plane is this image scanned?")
    yield what("Plane", kind.plane, *scan)
    coronal = kind.plane == "Coronal Plane"
    yield yes_no("Plane", coronal, "Is this a coronal plane?", "Is this a coronal section?")
    yield what("Organ", kind.region, "Which organ system is imaged?", "What organ system is pictured?")
    part = ("Which part of the body does this image belong to?", "Where does the picture show?")
    yield what("Position", kind.region, *part)
    for region in ("Chest", "Abdomen", "Head"):
        yield yes_no("Organ", region == kind.region, f"Is this a study of the {region.lower()}?")


def organ_topics(scene: Scene) -> Iterator[Topic]:
    """Which organs there are, how many, how large and how bright."""
    areas = {group: scene.area(group) for group in GROUPS}
    for group in ("Lung", "Heart", "Liver", "Spleen", "Kidney", "Brain", "Spinal Cord"):
        yield yes_no("Organ", areas[group] > 0, f"Does the picture contain {group.lower()}?")
    ranked = sorted(areas, key=lambda group: -areas[group])
    if areas[ranked[0]] > 1.2 * areas[ranked[1]]:
        yield what("Size", ranked[0], "What is the largest organ in the picture?")
    if scene.kind.region != "Head":
        columns = {label: np.flatnonzero(mask.any(axis=0)) for label, mask in scene.organs.items()}
        leftmost, rightmost = min(columns, key=lambda k: columns[k][0]), max(columns, key=lambda k: columns[k][-1])
        yield what("Organ", leftmost, "What is the leftmost organ in this image?")
        yield what("Organ", rightmost, "What is the rightmost organ in this image?")
    for group, wordings in (
        ("Lung", ("How many lungs are shown in this image?", "How many existing lungs in this image?")),
        ("Kidney", ("How many kidneys in this image?", "How many kidneys are there in this image?")),
    ):
        yield what("Quantity", str(sum(label in scene.organs for label in GROUPS[group])), *wordings)
    for label in ("Left Lung", "Right Lung", "Heart", "Left Kidney", "Right Kidney"):
        if label in scene.organs and (color := color_name(scene, scene.organs[label])):
            name = label.lower()
            show, plain = (
                f"What color does the {name} show in the picture?",
                f"What color is the {name} in the picture?",
            )
            yield what("Color", color, show, plain)


def color_name(scene: Scene, mask: np.ndarray) -> str | None:
    """Black, Gray or White by the finished image's middle grey level under `mask`; None where it is in between."""
    grey = float(np.median(scene.image[mask]))
    bands = (("Black", 0.0, 0.27), ("Gray", 0.33, 0.66), ("White", 0.7, 1.0))
    return next((name for name, low, high in bands if low <= grey <= high), None)


def finding_topics(scene: Scene) -> Iterator[Topic]:
    """What is abnormal, where and how often."""
    diseases = sorted({finding.label for finding in scene.findings})
    sick = {finding.organ for finding in scene.findings}
    yield what("Abnormality", ", ".join(diseases) or "None", "What diseases are included in the picture?")
    yield yes_no("Abnormality", bool(sick), "Are there abnormalities in this image?")
    yield yes_no("Abnormality", not sick, "Does this image look normal?", "Is this image normal?")
    if scene.kind.region == "Chest":
        name, asked = "lung", ["nodule", "effusion", "pneumonia", "atelectasis"]
        healthy = not any(organ.endswith("Lung") for organ in sick)
        nodules = sum(finding.label == "Nodule" for finding in scene.findings)
        yield what("Quantity", str(nodules), "How many nodules are there in this image?")
        for side in ("Left", "Right"):
            here = f"Is/Are there abnormalities in the patient's {side.lower()} lung?"
            yield yes_no("Abnormality", f"{side} Lung" in sick, here)
        if len(sick) == 1:
            organ = next(iter(sick)).split()[-1]
            yield which("Abnormality", organ, "Which organ is abnormal, heart or lung?")
    elif scene.kind.region == "Head":
        yield what("Quantity", str(len(diseases)), "How many kinds of abnormalities are there in this image?")
        name, asked, healthy = "brain", ["brain tumor", "brain edema"], not sick
    else:
        name, asked, healthy = "liver", ["liver cancer"], not sick
    if scene.area("Liver") or scene.kind.region != "Abdomen":
        yield yes_no("Abnormality", healthy, f"Is the {name} healthy?", f"Is the {name} normal appearing?")
    present = [disease for disease in asked if disease.title() in diseases]
    absent = [disease for disease in asked if disease not in present]
    # One of those absent: all of them would fill the data set with No.
    for disease in [*present, *scene.rng.permutation(absent)[:1]]:
        yield yes_no("Abnormality", disease in present, f"Can {disease} be observed in the picture?")
    if len(sick) == 1:
        yield from place_topics(scene, next(iter(sick)))


def place_topics(scene: Scene, organ: str) -> Iterator[Topic]:
    """Where the findings of the only abnormal organ are; nothing where upper or lower would be a matter of taste."""
    side = organ.split()[0]
    if organ.endswith("Lobe"):
        yield which("Position", side, "Which hemisphere is abnormal, left or right?")
        yield what("Position", organ, "Where are the abnormalities in this image?")
    elif organ.endswith("Lung"):
        yield which("Position", side, "Which side of lung is abnormal in this image, left or right?")
        if organ in scene.organs:
            found = np.any([finding.mask for finding in scene.findings], axis=0)
            _, top, _, height = tight_box(found | scene.organs[organ])
            _, y, _, extent = tight_box(found)
            offset = (y + extent / 2 - top) / height - 0.5
            if abs(offset) > 0.08:
                # SLAKE names the side of the patient first, then the place in the image.
                place = f"{'Lower' if offset > 0 else 'Upper'} {'Right' if side == 'Left' else 'Left'}"
                yield what("Position", f"{organ}, {place}", "Where is/are the abnormality located?")
    else:
        yield what("Position", organ, "Where is/are the abnormality located?")


def sample_questions(scene: Scene) -> list[tuple[Topic, str]]:
    """Ten to fourteen topics with a wording each: as many yes as no, the rest spread over the content types."""
    topics = [*general_topics(scene), *organ_topics(scene), *finding_topics(scene)]
    topics = [topics[at] for at in scene.rng.permutation(len(topics))]
    count = int(scene.rng.integers(QUESTIONS[0], QUESTIONS[1] + 1))
    even = count // 4
    chosen = [topic for answer in ("Yes", "No") for topic in [t for t in topics if t.answer == answer][:even]]
    others = [topic for topic in topics if topic.answer not in ("Yes", "No")]
    asked = dict.fromkeys((topic.kind for topic in others), 0)
    while others and len(chosen) < count:
        topic = min(others, key=lambda t: asked[t.kind] + 1.5 * (t.answer in COMMON))
        others.remove(topic)
        asked[topic.kind] += 1
        chosen.append(topic)
    return [(topic, str(scene.rng.choice(topic.wordings))) for topic in chosen]


def slake_rows(scene: Scene, index: int) -> list[dict[str, object]]:
    """The image's rows with SLAKE's fields, in SLAKE's order."""
    return [
        {
            "img_id": index,
            "img_name": f"xmlab{index}/source.jpg",
            "question": question,
            "answer": topic.answer,
            "q_lang": "en",
            "location": scene.kind.location,
            "modality": scene.kind.modality,
            "answer_type": "CLOSED" if topic.closed else "OPEN",
            "base_type": "vqa",
            "content_type": topic.kind,
            "triple": ["vhead", "_", "_"],
            "qid": index * QUESTIONS[1] + number,
        }
        for number, (topic, question) in enumerate(sample_questions(scene))
    ]


def write_phantoms(folder: str | Path, num_images: int = 60, seed: int = 0, image_size: int = 224) -> Path:
    """Write a phantom data set in SLAKE's layout, or leave it as it is where it is already there.

    Image number i depends on `seed` and `image_size` only, and about five of seven images go to training. The set is
    written beside `folder` and renamed when complete, so two processes may race: the loser discards its copy.

    Args:
        folder: where `train.json`, `validate.json`, `test.json` and `imgs/xmlabN/` go.
        num_images: images in all splits, at least 12.
        seed: zero or a positive number.
        image_size: width and height of every image in pixels, 96 to 1024.

    Returns:
        `folder` as an absolute path.

    Raises:
        UserError: for an argument out of range, or a folder that holds anything but this very data set.
    """
    folder = Path(folder).absolute()
    if num_images < MIN_IMAGES:
        raise UserError(
            f"num_images is {num_images}, too few for every kind of image in every split: give {MIN_IMAGES} or more."
        )
    if seed < 0:
        raise UserError(f"seed is {seed}: give zero or a positive number.")
    if not IMAGE_SIZES[0] <= image_size <= IMAGE_SIZES[1]:
        raise UserError(f"image_size is {image_size}: give {IMAGE_SIZES[0]} to {IMAGE_SIZES[1]} pixels.")
    if occupied(folder):
        check_same(folder, num_images, seed, image_size)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        write_files(part, num_images, seed, image_size)
        try:
            os.rename(part, folder)
        except OSError:
            if not occupied(folder):
                raise
            check_same(folder, num_images, seed, image_size)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def cached_phantoms(num_images: int = 60) -> Path:
    """The folder of a phantom set in the cache, written if it is not there."""
    return write_phantoms(cache_dir() / f"phantom-{DRAWING}" / str(num_images), num_images)


def occupied(folder: Path) -> bool:
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def write_files(folder: Path, num_images: int, seed: int, image_size: int) -> None:
    """Draw the images one by one and append their rows, so that memory does not grow with `num_images`."""
    folder.mkdir()
    with ExitStack() as stack:
        files = {split: stack.enter_context(open(folder / f"{split}.json", "w", encoding="utf-8")) for split in SPLITS}
        for index in tqdm(range(num_images), desc="phantoms", unit="image", disable=num_images < 500):
            scene, picture = draw_scene(index, seed, image_size)
            target = folder / "imgs" / f"xmlab{index}"
            target.mkdir(parents=True)
            picture.save(target / "source.jpg", quality=92)
            (target / "detection.json").write_text(json.dumps(scene.boxes()), encoding="utf-8")
            file = files[SPLIT_CYCLE[index // len(KINDS) % len(SPLIT_CYCLE)]]
            file.write(", " if file.tell() else "[")
            file.write(", ".join(map(json.dumps, slake_rows(scene, index))))
        for file in files.values():
            file.write("]")


def check_same(folder: Path, num_images: int, seed: int, image_size: int) -> None:
    """Raise `UserError` unless `folder` holds the set these arguments give, by its first image and its count."""
    scene, _ = draw_scene(0, seed, image_size)
    start = "[" + ", ".join(map(json.dumps, slake_rows(scene, 0)))
    try:
        with open(folder / "train.json", encoding="utf-8") as file:
            same = file.read(len(start)) == start
        with Image.open(folder / "imgs" / "xmlab0" / "source.jpg") as picture:
            same = same and picture.size == (image_size, image_size)
        same = same and sum(1 for _ in (folder / "imgs").iterdir()) == num_images
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        raise UserError(
            f"{folder} exists and is not the phantom set of num_images={num_images}, seed={seed}, "
            f"image_size={image_size}: choose another folder or remove it."
        )


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a phantom data set in SLAKE's format.")
    parser.add_argument("folder", type=Path, help="where the data set goes")
    parser.add_argument("--num_images", type=int, default=60, help="images in all splits, at least 12")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other patients")
    parser.add_argument("--image_size", type=int, default=224, help="pixels along a side")
    folder = write_phantoms(**vars(parser.parse_args(arguments)))
    print(f"Phantom data set in {folder}")


if __name__ == "__main__":
    run_command(main)
