"""SQuAD v2 Exact Match and F1 as an `evaluate` module: `evaluate.load("metrics/squad_v2")`, without the network."""

import datasets
import evaluate

# evaluate reads the next line to find the file to copy. It does not understand a comment at its end.
from .scoring import Prediction, Reference, exact_score, f1_score, normalize_answer, squad_v2_scores

__all__ = ["SquadV2", "exact_score", "f1_score", "normalize_answer", "squad_v2_scores"]

_CITATION = """\
@inproceedings{rajpurkar-etal-2018-know,
    title = {Know What You Don't Know: Unanswerable Questions for {SQuAD}},
    author = {Rajpurkar, Pranav and Jia, Robin and Liang, Percy},
    booktitle = {Proceedings of the 56th Annual Meeting of the Association for Computational Linguistics},
    year = {2018},
    url = {https://arxiv.org/abs/1806.03822}
}
"""

_DESCRIPTION = """\
Exact Match and F1 of short answers, over all questions, those with an answer and those without, and the no-answer
thresholds that would have scored best. Same inputs, figures and rules as the SQuAD 2.0 evaluation script.
"""

_INPUTS = """\
Args:
    predictions: dicts of
        'id': the question's id
        'prediction_text': the answer, '' for none
        'no_answer_probability': the probability of "no answer", 0.0 if the model has none
    references: dicts of
        'id': the question's id
        'answers': {'text': [gold answers], 'answer_start': [offsets, not used]}; two empty lists if there is no answer
    no_answer_threshold: a no_answer_probability strictly above it counts as "no answer" (default 1.0: never)
Returns:
    'exact', 'f1' (percent) and 'total' (count), over all questions
    'HasAns_exact', 'HasAns_f1', 'HasAns_total', over those with an answer, if there are any
    'NoAns_exact', 'NoAns_f1', 'NoAns_total', over those without, if there are any
    'best_exact', 'best_exact_thresh', 'best_f1', 'best_f1_thresh': the best scores, and the thresholds that reach them
Examples:
    >>> squad_v2 = evaluate.load("metrics/squad_v2")
    >>> figures = squad_v2.compute(
    ...     predictions=[{"id": "1", "prediction_text": "left lung", "no_answer_probability": 0.0}],
    ...     references=[{"id": "1", "answers": {"text": ["Lung"], "answer_start": [0]}}],
    ... )
    >>> round(figures["f1"], 2)
    66.67
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class SquadV2(evaluate.Metric):
    """The module that `evaluate.load` finds in this file."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": {
                        "id": datasets.Value("string"),
                        "prediction_text": datasets.Value("string"),
                        "no_answer_probability": datasets.Value("float32"),
                    },
                    "references": {
                        "id": datasets.Value("string"),
                        "answers": datasets.Sequence(
                            {"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}
                        ),
                    },
                }
            ),
            reference_urls=["https://arxiv.org/abs/1806.03822", "https://rajpurkar.github.io/SQuAD-explorer/"],
        )

    def _compute(
        self, predictions: list[Prediction], references: list[Reference], no_answer_threshold: float = 1.0
    ) -> dict[str, float]:
        return squad_v2_scores(predictions, references, no_answer_threshold)
