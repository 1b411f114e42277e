"""Predictions and references as the SQuAD v2 module takes them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "metrics" / "squad_v2"


def predicted(id_, text, probability=0.0):
    return {"id": id_, "prediction_text": text, "no_answer_probability": probability}


def gold(id_, *texts):
    return {"id": id_, "answers": {"text": list(texts), "answer_start": [0] * len(texts)}}
