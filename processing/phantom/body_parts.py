"""What several phantom bodies share: the trunk, the spine, and the vessels and findings of lungs."""

from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from processing.phantom.scene import Scene

SIDES = (("Right", -1.0), ("Left", 1.0))  # radiological: the patient's right lies to the left in the image


def draw_trunk(scene: Scene, fat: float, muscle: float, bone: float) -> np.ndarray:
    """Draws skin, fat, wall, ribs and table of an axial CT, and returns the shape of the cavity within."""
    rng, depth = scene.rng, scene.rng.uniform(0.03, 0.1)
    table = scene.ellipse(0, -0.75, 1.6, scene.vary(1.5, 0.03))
    scene.paint(0.012 - np.abs(table), muscle, strength=0.8)
    body = scene.ellipse(0, 0, scene.vary(0.88, 0.05), scene.vary(0.62, 0.07), boxy=True)
    scene.paint(body, muscle)
    scene.paint(body - 0.02, fat + 0.03 * scene.noise(20))
    wall = body - 0.02 - depth
    scene.paint(wall, muscle + 0.02 * scene.noise(40))
    ring = np.abs(wall - 0.075)
    angle, pairs = np.arctan2(scene.y, scene.x), int(rng.integers(9, 13))
    phase = rng.uniform(0, 6) + 50 * scene.level  # ribs slope: a slice meets them further on than the last one did
    ribs = 0.05 * np.cos(angle * pairs + phase + scene.noise(5)) - 0.02
    scene.paint(np.minimum(0.022 - ring, ribs), bone, soft=0.02)
    for _, side in SIDES:
        scene.dab((side * 0.16, 0.46, 0.15, 0.09), muscle)
    return wall - 0.1


def draw_spine(scene: Scene, bone: float, marrow: float, cord: float) -> None:
    """Draws an axial vertebra with its processes and the spinal cord."""
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
    """Draws branching vessels from each hilum, thinning outwards."""
    half, rng = scene.size / 2, scene.rng
    layer = Image.new("L", (scene.size, scene.size))
    pen = ImageDraw.Draw(layer)

    def draw_ends(lung: np.ndarray) -> np.ndarray:
        inside = np.flatnonzero(lung > 0.02)
        places = np.stack([inside % scene.size, inside // scene.size], axis=1)
        return places[rng.integers(0, inside.size, 22)] if inside.size else places

    for lung in lungs.values():
        ends = scene.once(partial(draw_ends, lung))
        if not ends.size:
            continue
        ends = ends + half * scene.level * scene.drift.normal(0, 1, ends.shape)  # they run obliquely
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


def draw_disease(scene: Scene, lungs: dict[str, np.ndarray], disease: str, value: float, dependent: float) -> None:
    """Draws `disease` into one of the two lungs.

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
            nodule = scene.ellipse(cx, cy, radius, scene.vary(radius, 0.15), height=scene.height_over(radius))
            # A second nodule on top of the first would count as one.
            if not any(mask[nodule > -0.05].any() for _, _, mask in scene.findings):
                scene.finding("Nodule", label, np.minimum(lung, nodule), value, soft=0.035)
    elif disease == "Effusion":
        bowl = dependent + 0.12 - 0.9 * np.square(scene.x - 0.1 * np.sign(scene.x))
        scene.finding("Effusion", label, np.minimum(lung + 0.02, scene.y - bowl), value, soft=0.04)
    elif disease == "Pneumonia":
        radius = scene.rng.uniform(0.16, 0.22)
        cx, cy = scene.spot(lung, radius)
        patch = scene.ellipse(cx, cy, radius, radius * 1.15, height=scene.height_over(radius))
        patch += 0.02 * scene.noise(14)
        scene.finding("Pneumonia", label, np.minimum(lung, patch), value - 0.1 + 0.08 * scene.noise(30), soft=0.12)
    elif disease == "Atelectasis":
        scene.finding("Atelectasis", label, lung + 0.02, value + 0.02 * scene.noise(12), soft=0.05)
        scene.organs.pop(label)
