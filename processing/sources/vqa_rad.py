"""VQA-RAD's rows, of the public release or its split files."""

from processing.sources.tables import Row

VQA_RAD_PUBLIC_FILE = "VQA_RAD Dataset Public.json"


def vqa_rad_rows(records: list[tuple[dict, Row]]) -> list[Row]:
    rows = []
    for record, row in records:
        in_test = str(record.get("phrase_type")).startswith("test")
        rows.append(
            row
            | {"split": row["split"] or ("test" if in_test else "train")}
            | {"image": record.get("image_name"), "image_id": record.get("image_name")}
            | {"question": record.get("question"), "answer": record.get("answer"), "question_id": record.get("qid")}
            | {"answer_type": record.get("answer_type"), "content_type": record.get("question_type")}
            | {"location": record.get("image_organ"), "language": "en"}
        )
    return rows
