"""Phantom bodies: chest and abdomen in CT, the brain in MRI, the chest in X-ray."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from processing.phantom.body_parts import SIDES, draw_disease, draw_spine, draw_trunk, draw_vessels
from processing.phantom.scene import Finding, Kind, Scene

# What the images of a kind show, in turn. No length shares a factor with that of `files.SPLIT_CYCLE`, so every split
# gets images of all.
CHEST_CT_CYCLE = ("Effusion", "None", "Nodule", "None", "Pneumonia", "Atelectasis", "Nodule", "None")
XRAY_CYCLE = ("Nodule", "None", "Effusion", "Cardiomegaly", "Pneumonia", "Atelectasis", "None", "Nodule")
BRAIN_CYCLE = ("None", "Tumor", "Edema", "None", "Tumor")


def chest_ct(scene: Scene, turn: int) -> None:
    """Draws an axial chest CT in a lung window (grey vessels, white heart) or a soft-tissue window (black lungs)."""
    wide = scene.chance(0.55)
    air, fat, muscle, bone = (0.13, 0.68, 0.8, 0.97) if wide else (0.02, 0.2, 0.46, 0.95)
    lung_grey, heart_grey = (0.2, 0.88) if wide else (0.05, 0.56)
    scene.image += air
    cavity = draw_trunk(scene, fat, muscle, bone)
    heart = scene.ellipse(*scene.section(0.12, -0.1, scene.vary(0.24), scene.vary(0.19), scene.rng.uniform(0.2, 0.7)))
    lungs = {}
    for name, side in SIDES:
        rx, ry = scene.vary(0.33, 0.06), scene.vary(0.46, 0.06)
        lobe = scene.ellipse(*scene.section(side * 0.42, -0.02, rx, ry, side * -0.1))
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
    draw_disease(scene, lungs, CHEST_CT_CYCLE[turn % len(CHEST_CT_CYCLE)], muscle, dependent=0.12)


def abdomen_ct(scene: Scene, turn: int) -> None:
    """Draws an axial abdominal CT; which organs it has depends on the level of the slice and the patient."""
    rng = scene.rng
    air, fat, muscle, bone = 0.02, scene.vary(0.16, 0.2), 0.44, 0.95
    cavity = draw_trunk(scene, fat, muscle, bone)
    scene.paint(cavity, fat + 0.02 * scene.noise(40))
    has_liver = turn % 4 != 1  # below it the slice shows bowel
    organ_grey = scene.vary(0.54, 0.06)
    draw_spine(scene, bone, 0.68, 0.42)
    scene.dab((0.05, 0.16, 0.05, 0.05), 0.72)
    scene.dab((-0.08, 0.16, 0.055, 0.042), 0.58)
    scene.paint(scene.ellipse(0.03, 0.02, 0.2, 0.045, 0.2), 0.44 + 0.04 * scene.noise(30), soft=0.03)
    if has_liver:
        stomach = np.minimum(cavity, scene.ellipse(*scene.section(0.3, -0.2, scene.vary(0.2), scene.vary(0.16), 0.3)))
        scene.organ("Stomach", stomach, 0.46)
        scene.paint(stomach - 0.02, 0.4 + 0.02 * scene.noise(20))
        scene.paint(np.minimum(stomach - 0.02, -0.24 - scene.y), air)
        right = scene.ellipse(*scene.section(-0.42, -0.03, scene.vary(0.33), scene.vary(0.36), 0.2))
        left = scene.ellipse(*scene.section(-0.1, -0.24, scene.vary(0.33), scene.vary(0.13), 0.15))
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
        section = scene.section(0.57, 0.08, scene.vary(0.13), scene.vary(0.25), -0.25)
        spleen = np.minimum(cavity, scene.ellipse(*section))
        scene.organ("Spleen", spleen, organ_grey + 0.04 + 0.015 * scene.noise(16))
    enhanced = 0.28 if scene.chance(0.5) else 0.04
    sides = [SIDES, SIDES[:1], SIDES[1:], SIDES, ()][rng.integers(5)]
    for name, side in sides:
        section = scene.section(side * 0.31, 0.24, scene.vary(0.13), scene.vary(0.11), side * 0.6)
        kidney = scene.ellipse(*section)
        scene.paint(kidney + 0.035, fat)
        scene.organ(f"{name} Kidney", kidney, organ_grey + enhanced)
        scene.dab((side * 0.25, 0.22, 0.06, 0.045), organ_grey - 0.05, soft=0.04)
    if has_liver and turn % 3:
        clear_of_kidney = np.minimum(np.minimum(liver, right), 0.08 - scene.y)
        _draw_liver_lesions(scene, clear_of_kidney, organ_grey)


def _draw_liver_lesions(scene: Scene, liver: np.ndarray, grey: float) -> None:
    """Draws one or two lesions, darker or brighter than the tissue."""
    value = grey + (-0.3 if scene.chance(0.5) else 0.34)
    for _ in range(scene.rng.integers(1, 3)):
        radius = scene.rng.uniform(0.06, 0.1)
        cx, cy = scene.spot(liver, 1.3 * radius)
        lesion = scene.ellipse(cx, cy, radius, scene.vary(radius, 0.2), height=scene.height_over(radius))
        lesion = np.minimum(liver, lesion + 0.006 * scene.noise(24))
        scene.finding("Liver Cancer", "Liver", lesion, value + 0.02 * scene.noise(30), soft=0.03)


def brain_mri(scene: Scene, turn: int) -> None:
    """Draws an axial brain MRI, T1 or T2 weighted, with or without the skull around it."""
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
        scene.dab(scene.section(side * 0.075, -0.13, 0.036 * wide, 0.15, side * 0.35), fluid, soft=0.025)
        scene.dab(scene.section(side * 0.16, 0.22, 0.04 * wide, 0.17, side * -0.5), fluid, soft=0.025)
    scene.dab((0, 0.06, 0.014, 0.08), fluid)
    disease = BRAIN_CYCLE[turn // 2 % len(BRAIN_CYCLE)]
    if disease == "None":
        return
    name, side = SIDES[rng.integers(2)]
    radius = rng.uniform(0.1, 0.15)
    half = np.minimum(brain, side * scene.x - 0.04)
    cx, cy = scene.spot(half, 1.4 * radius)
    height = scene.height_over(radius)
    tumor = scene.ellipse(cx, cy, radius, scene.vary(radius, 0.2), height=height)
    tumor = np.minimum(half, tumor + 0.02 * scene.noise(14))
    if disease == "Edema" or scene.chance(0.6):
        edema = np.minimum(half, tumor + 0.08 + 0.05 * scene.noise(9))
        scene.finding("Brain Edema", f"{name} Lobe", edema, 0.72 if bright else 0.24, soft=0.05)
    if disease == "Tumor" and scene.finding(
        "Brain Tumor", f"{name} Lobe", tumor, 0.92 + 0.05 * scene.noise(24), soft=0.03
    ):
        core = scene.ellipse(cx + 0.02, cy - 0.01, 0.7 * radius, 0.6 * radius, height=height)
        core += 0.025 * scene.noise(16)
        scene.paint(core, (0.6 if bright else 0.35) + 0.1 * scene.noise(30), soft=0.05)


def chest_xray(scene: Scene, turn: int) -> None:
    """Draws a frontal chest X-ray."""
    x, y = scene.x, scene.y
    disease = XRAY_CYCLE[turn % len(XRAY_CYCLE)]
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
    heart = scene.ellipse(*scene.section(0.5 * heart_rx - 0.02, 0.26, heart_rx, scene.vary(0.27), 0.35))
    domes = {
        name: scene.ellipse(*scene.section(side * 0.36, 0.95, 0.46, scene.vary(0.5 - 0.03 * side, 0.08)))
        for name, side in SIDES
    }
    heart = np.minimum(heart, 0.5 - y)
    lungs = {}
    for name, side in SIDES:
        rx, ry = scene.vary(0.31, 0.05), scene.vary(0.95, 0.04)
        lung = scene.ellipse(*scene.section(side * 0.36, 0.2, rx, ry, side * -0.04))
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
    draw_disease(scene, lungs, disease, 0.78, dependent=0.22)
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


# 5 mm of a trunk's field of 400 mm, which is 2 units; a head's is 240 mm. An X-ray shows the whole depth of a body:
# the "slices" of its patient are films at other breaths, by which organs change as much.
SPACING = 0.025

KINDS = (
    Kind(chest_ct, "Lung", "CT", "Chest", "Transverse Plane", 0.5, 0.03, SPACING),
    Kind(abdomen_ct, "Abdomen", "CT", "Abdomen", "Transverse Plane", 0.5, 0.045, SPACING),
    Kind(brain_mri, "Brain", "MRI", "Head", "Transverse Plane", 0.6, 0.03, 1.7 * SPACING),
    Kind(chest_xray, "Lung", "X-Ray", "Chest", "Coronal Plane", 0.6, 0.03, SPACING),
)


def draw_scene(index: int, seed: int, size: int) -> tuple[Scene, Image.Image]:
    """Draws phantom number `index`, and returns what is known of it and the picture.

    It depends on nothing but the arguments.
    """
    scene = Scene(KINDS[index % len(KINDS)], size, np.random.default_rng([seed, index]))
    scene.kind.draw(scene, index // len(KINDS))
    return _finish(scene)


def draw_patient(patient: int, seed: int, size: int, slices: int) -> Iterator[tuple[Scene, Image.Image]]:
    """Draws the slices of a patient from the lowest to the highest; each with what is known of it.

    The body is that of phantom number `patient`, through whose level the slice in the middle goes, or would go. It
    depends on nothing but the arguments.
    """
    turn, kind = patient // len(KINDS), KINDS[patient % len(KINDS)]
    top = (slices - 1) / 2 * kind.spacing

    def draw_body(level: float, middle: Scene | None) -> Scene:
        body, drift = np.random.default_rng([seed, patient]), np.random.default_rng([seed, patient, slices])
        scene = Scene(kind, size, body, level, top, drift, middle)
        kind.draw(scene, turn)
        return scene

    middle = draw_body(0, None)
    for number in range(slices):
        scene = draw_body(number * kind.spacing - top, middle)
        scene.rng = np.random.default_rng([seed, patient, slices, number + 1])  # noise and questions of its own
        yield _finish(scene)


def _finish(scene: Scene) -> tuple[Scene, Image.Image]:
    scene.organs = {label: mask for label, mask in scene.organs.items() if mask.any()}
    scene.findings = [finding for finding in scene.findings if finding.mask.any()]
    return scene, scene.finish()
