"""The page of the Streamlit app that answers many questions at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from processing.errors import UserError
from processing.images import MAX_IMAGE_BYTES, open_image
from spaces_app.answers import count, show_error
from spaces_app.batch import ImageQuestion, answer_all, as_csv, ask_of_each, read_archive, read_questions
from spaces_app.content import BURNT_IN, PROBES
from spaces_app.limits import BATCHES, DECODING

if TYPE_CHECKING:
    from modeling.predictor import Predictor  # the page is painted before torch is loaded


@dataclass
class BatchPage:
    """A table of questions about one image, or the same questions about an archive of images.

    Attributes:
        image, table: files for the first kind, None where they are not chosen.
        archive, questions: for the second, the questions one a line.
        started: the button was clicked.
        bar, result: places on the page.
    """

    image: Any
    table: Any
    archive: Any
    questions: str
    started: bool
    bar: Any
    result: Any

    @classmethod
    def paint(cls) -> "BatchPage":
        """Paints what needs no model."""
        kinds = ("Many questions about one image", "The same questions about many images")
        kind = st.radio("What to ask", kinds, horizontal=True)
        image = table = archive = None
        questions = ""
        if kind == kinds[0]:
            image = st.file_uploader("The image", key="batch-image", max_upload_size=MAX_IMAGE_BYTES // 2**20)
            table = st.file_uploader("CSV file with a column named question", type="csv", key="batch-csv")
        else:
            archive = st.file_uploader("Zip file of images", type="zip", key="batch-zip")
            questions = st.text_area("Questions, one per line", "\n".join(PROBES), max_chars=20_000)
        st.caption(BURNT_IN)
        ready = bool(image and table) or bool(archive and questions.strip())
        if not ready:
            st.session_state.pop("batch", None)
        started = st.button("Answer all", type="primary", disabled=not ready)
        return cls(image, table, archive, questions, started, bar=st.empty(), result=st.container())

    def complete(self, models: "Mapping[str, Predictor]") -> None:
        """Answers what was asked for and paints the answers."""
        if self.started:
            st.session_state.pop("batch", None)
            try:
                self._answer(next(iter(models.values())))
            except UserError as error:
                with self.bar:
                    show_error(str(error))
        rows = st.session_state.get("batch")
        if rows:
            with self.result:
                failed = sum(bool(row["error"]) for row in rows)
                errors = f", {failed:,} with an error" if failed else ""
                st.success(f"{len(rows):,} questions answered{errors}.")
                st.dataframe(rows, hide_index=True)
                st.download_button("Download the answers (CSV)", as_csv(rows), "answers.csv", "text/csv")

    def _answer(self, model: "Predictor") -> None:
        """Answers all questions and keeps the rows for this visit.

        Raises:
            UserError: the files can't be used, or the visitor has asked for too much.
        """
        asked = self._read_questions()
        count(BATCHES, len(asked))

        def show_progress(share: float) -> None:
            self.bar.progress(share, text=f"{share:.0%} of {len(asked):,} questions answered")

        show_progress(0.0)
        st.session_state.batch = answer_all(model, asked, show_progress)
        self.bar.empty()

    def _read_questions(self) -> list[ImageQuestion]:
        """All questions, each with its image.

        Raises:
            UserError: the files can't be used.
        """
        if self.image is not None and self.table is not None:
            with DECODING:
                image = open_image(self.image)
            questions = read_questions(self.table.getvalue(), self.table.name)
            return [ImageQuestion(self.image.name, image, question) for question in questions]
        if self.archive is None:
            return []
        questions = [line.strip() for line in self.questions.splitlines() if line.strip()]
        return ask_of_each(read_archive(self.archive.getvalue()), questions)
