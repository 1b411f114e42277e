"""spaces_app.content: what the apps say."""

from metrics.abstention import SILENT_EVERYWHERE
from spaces_app.content import why_silent


def test_a_model_that_never_answers_speaks_of_no_confidence_above_1():
    assert why_silent(0.876).startswith("The model gives no answer below a confidence of 88%")
    assert why_silent(SILENT_EVERYWHERE).startswith("The model gives no answer at all")
