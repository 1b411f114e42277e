"""Four questions of several kinds about two images, and answers to them."""

NOTHING = dict.fromkeys(("content_type", "modality", "location"))
ROWS = [
    {"answer": "Left Lung", "answer_type": "OPEN", "image_id": "a", **NOTHING, "language": "en", "modality": "CT"},
    {"answer": "Yes", "answer_type": "CLOSED", "image_id": "a", **NOTHING, "language": "en", "modality": "CT"},
    {"answer": "T1", "answer_type": "CLOSED", "image_id": "b", **NOTHING, "language": "en", "modality": "MRI"},
    {"answer": "左肺", "answer_type": "OPEN", "image_id": "b", **NOTHING, "language": "zh", "modality": "MRI"},
]
PREDICTIONS = ["lung", "yes", "T2", "右肺"]
