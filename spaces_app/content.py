"""What both apps say and show beside the model's answers."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from processing.phantom.files import MIN_IMAGES, cached_phantoms

if TYPE_CHECKING:
    from modeling.parts.evidence import Evidence  # a page is painted before torch is loaded
    from modeling.predictor import Answer

DISCLAIMER = (
    "For research and teaching only, not for clinical use: the answers may be wrong, however sure the model is. "
    "Do not use it for diagnosis or treatment."
)
BURNT_IN = (
    "Names and dates that are burnt into the pixels, as in a corner of many ultrasound images, are not removed: cover "
    "them before you send an image."
)
PRIVACY = (  # in the Streamlit app
    "Images stay in this server's memory while the page is open, and at most three minutes longer. What a model "
    "computed from them stays for at most ten minutes after the last question. No file of yours is left on its disk, "
    "and nothing is logged. From a DICOM header the app reads what it needs to draw and sort images, such as "
    "modality, window, spacing, position and series, and nothing about the patient."
)
KEPT = (  # by the Gradio app
    "An image is kept on this server's disk, without its name, for at most 31 minutes after its upload or the last "
    "question about it. What the model computed from it stays in memory for at most ten minutes."
)
_OUTPUT = Path(__file__).resolve().parent.parent / "output"
DEFAULT_MODEL = str(_OUTPUT / "demo")  # where `make demo` leaves one
DEFAULT_COMPARED = str(_OUTPUT / "demo-blip2")  # where `make demo-blip2` leaves one
SILENT = "The model gives no answer below a confidence of {:.0%}: too many such answers were wrong in validation."
SILENT_EVERYWHERE = (
    "The model gives no answer at all: in validation, no threshold kept wrong answers as rare as was asked for."
)
NOT_SEEN = "The model finds no place for it in the image."
NOT_SEEN_IN_REGION = "The model finds no place for it in the region."
CONTRADICTED = "What the model sees in the image speaks against this answer."
QUESTION_CUT = "The question is longer than the model can read; its end was left out."
UNLIKE_TRAINING = "The model was trained on few or no questions like this one; its answer may be wrong."
UNSURE = 0.5  # below this confidence an answer comes with a warning
EXAMPLES = {"Chest X-ray": 11, "Head MRI": 10, "Abdomen CT": 9, "Chest CT": 8}  # phantoms of the test split

FIRST_EXAMPLE, FIRST_QUESTION = "Abdomen CT", "Does the picture contain liver?"

PROBES = ("Which part of the body does this image belong to?", "What modality is used to take this image?")
GENERAL = (*PROBES, "Does this image look normal?", "What diseases are included in the picture?")
SUGGESTIONS = {  # by a word of the answer to the first probe
    "chest": (
        "Is the lung healthy?",
        "Where is/are the abnormality located?",
        "Does the picture contain heart?",
    ),
    "lung": ("Is the lung healthy?", "Where is/are the abnormality located?", "Does the picture contain heart?"),
    "abdomen": (
        "Does the picture contain liver?",
        "How many kidneys in this image?",
        "Is the liver healthy?",
    ),
    "head": (
        "What diseases are included in the picture?",
        "What is the mr weighting in this image?",
        "Is the brain healthy?",
    ),
    "brain": ("What diseases are included in the picture?", "Is the brain healthy?"),
    "pelvi": ("Does the picture contain bladder?", "What is the largest organ in the picture?"),
    "neck": ("Does the picture contain trachea?", "Does this image look normal?"),
}


def short_name(name: str) -> str:
    """A model's name without the folder it lies in."""
    return Path(name).name if Path(name).is_dir() else name


def text_of(answer: "Answer | str") -> str:
    """An answer in words; of an error, which is a text, it is the error."""
    if isinstance(answer, str):
        return answer
    return "(silent)" if answer.silent else answer.answer or "(no answer)"


def suggestions(part: str) -> tuple[str, ...]:
    """Questions that fit an image.

    Args:
        part: what the model answers to the first of `PROBES`.
    """
    fitting = (questions for word, questions in SUGGESTIONS.items() if word in part.lower())
    return (*PROBES[1:], *next(fitting, GENERAL[2:]))


@cache  # `cached_phantoms` draws an image to check its folder
def example_images() -> tuple[tuple[str, Path], ...]:
    """Name and file of drawn images, which are no patient's."""
    folder = cached_phantoms(MIN_IMAGES)
    return tuple((name, folder / "imgs" / f"xmlab{number}" / "source.jpg") for name, number in EXAMPLES.items())


def why_silent(threshold: float) -> str:
    """Why a model gives no answer, by the confidence below which it gives none. None reaches one above 1."""
    return SILENT_EVERYWHERE if threshold > 1 else SILENT.format(threshold)


def seen(evidence: "Evidence") -> str:
    """The names of what a model finds in an image, each once with its highest probability, the likeliest first.

    In front of a name stands its number where that is what the outlines show.
    """
    from modeling.asking.heat_maps import names_on_image

    on_image = names_on_image(evidence.boxes)
    probabilities: dict[str, list[float]] = {}
    for found in evidence.boxes:
        probabilities.setdefault(found.label, []).append(found.probability)
    names = []
    for label, some in probabilities.items():
        places = f" in {len(some)} places" if len(some) > 1 else ""
        number = "" if on_image[label] == label else f"{on_image[label]} "
        names.append(f"{number}{label}{places} ({max(some):.0%})")
    return ", ".join(names)


def what_is_seen(evidence: "Evidence", in_region: bool = False) -> str:
    """What a model finds in an image, in words.

    Args:
        in_region: the evidence is limited to a region.
    """
    nothing = NOT_SEEN_IN_REGION if in_region else NOT_SEEN
    found = f"Seen: {seen(evidence)}." if evidence.boxes else nothing
    return f"{found} {CONTRADICTED}" if evidence.contradicts else found
