"""Questions about a phantom image, whose answers are known to be true."""

from collections.abc import Iterator

import numpy as np

from processing.phantom.scene import GROUPS, Scene, tight_box
from processing.topics import Topic, what, which, yes_no

QUESTIONS = (10, 14)  # per image, both ends included

# Answers that would fill the data set if every image were asked the same: they wait until rarer ones had their turn.
COMMON = ("Transverse Plane", "CT", "Chest", "Head", "Lung", "Left Lung", "Right Lung", "None", "0")


def general_topics(scene: Scene) -> Iterator[Topic]:
    """Modality, weighting, plane and part of the body."""
    kind, weighting = scene.kind, scene.weighting
    yield what("Modality", kind.modality, "What modality is used to take this image?", "How was this image taken?")
    for modality, article in (("MRI", "an"), ("X-Ray", "a")):
        yield yes_no(
            "Modality",
            modality == kind.modality,
            f"Is this {article} {modality}?",
            f"Is this image taken via {modality}?",
        )
    if weighting:
        yield what(
            "Modality",
            weighting,
            "What is the mr weighting in this image?",
            "What type of MRI is shown in this image?",
        )
        for name in ("T1", "T2"):
            yield yes_no("Modality", name == weighting, f"Is this an MRI image with {name} weighted?")
    yield what(
        "Plane",
        kind.plane,
        "What is the scanning plane of this image?",
        "In what plane is this image scanned?",
    )
    coronal = kind.plane == "Coronal Plane"
    yield yes_no("Plane", coronal, "Is this a coronal plane?", "Is this a coronal section?")
    yield what("Organ", kind.region, "Which organ system is imaged?", "What organ system is pictured?")
    yield what(
        "Position",
        kind.region,
        "Which part of the body does this image belong to?",
        "Where does the picture show?",
    )
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
        if label in scene.organs and (color := _color_name(scene, scene.organs[label])):
            name = label.lower()
            yield what(
                "Color",
                color,
                f"What color does the {name} show in the picture?",
                f"What color is the {name} in the picture?",
            )


def _color_name(scene: Scene, mask: np.ndarray) -> str | None:
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
            question = f"Is/Are there abnormalities in the patient's {side.lower()} lung?"
            yield yes_no("Abnormality", f"{side} Lung" in sick, question)
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
        yield from _place_topics(scene, next(iter(sick)))


def _place_topics(scene: Scene, organ: str) -> Iterator[Topic]:
    """Where the findings of the only abnormal organ are; upper or lower only where it is clear."""
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


def _sample_questions(scene: Scene) -> list[tuple[Topic, str]]:
    """Chooses ten to fourteen topics with a wording each: as many yes as no, the others of all content types."""
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


def slake_rows(scene: Scene, index: int, group: str | None = None) -> list[dict[str, object]]:
    """The image's rows with SLAKE's fields, in SLAKE's order, and its patient as `group` where it has one."""
    patient = {"group": group} if group else {}
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
        | patient
        for number, (topic, question) in enumerate(_sample_questions(scene))
    ]
