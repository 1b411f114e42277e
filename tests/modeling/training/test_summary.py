"""modeling.training.summary: what a run shows before, while and after it trains."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState

from modeling.families import FAMILIES
from modeling.parts.vocabulary import labels_of
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.progress import TrainingLines, duration_text, log_line, show_progress
from modeling.training.summary import count_steps, describe_parameters, parts_of, summarize, what_to_open

EVALUATED = {
    "eval_loss": 0.51234,
    "eval_exact_match": 45.0,
    "eval_f1": 47.256,
    "eval_total": 200,
    "eval_runtime": 6.0,
    "epoch": 1.0,
}


def arguments(folder, **changes) -> ViltTrainingArguments:
    options = {"model_name_or_path": "scratch:tiny", "use_cpu": True, "fp16": False} | changes
    return ViltTrainingArguments(output_dir=str(folder), **options)


def test_summary_of_a_run_has_its_numbers_in_80_columns(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = dataset["train"].num_rows
    longer = dataset["validation"].map(lambda r, i: {"answer": "A unicorn"} if i == 0 else r, with_indices=True)
    splits = type(dataset)({"train": dataset["train"], "validation": longer})
    args = arguments("out", per_device_train_batch_size=16, gradient_accumulation_steps=2, num_train_epochs=2)
    family = FAMILIES["vilt"]
    model, processor = family.build_model(args, splits)
    trainer = family.build_trainer(args, model, processor, splits)
    text = summarize("phantom", args, trainer, family, splits, parts_of(model))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    said = " ".join(text.split())
    size = sum(p.numel() for p in model.parameters())
    known = labels_of(longer["answer"], model.config.label2id)
    missing = sum(answer not in known for answer in longer["answer"])
    assert missing >= 1
    reach = 100 * (1 - missing / len(longer))
    images = [len(set(splits[split]["image"])) for split in splits]
    for part in (
        "Model ViLT, scratch:tiny",
        f"Parameters {size:,}, all trained",
        f"Data phantom: {rows:,} train rows on {images[0]} images, {len(longer)} validation rows on {images[1]} ",
        f"Answers one of {model.config.num_labels}; EM can reach {reach:.2f} % on validation "
        f"({missing} of {len(longer)} rows have other answers)",
        "Batch 32 questions = 16 on a device x 2 accumulated x 1 device",
        f"Steps {count_steps(args, rows)[0]} in 2 epochs of {rows} rows",
        "Precision fp32",
        "Output out",
    ):
        assert part in said


def test_parameters_are_counted_in_all_and_by_part():
    model = nn.ModuleDict({"eye": nn.Linear(2, 3), "small_head": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))})
    parts = parts_of(model)
    assert parts == {"eye": 9, "small head": 21}
    assert describe_parameters(parts, model) == "30, all trained"
    model["eye"].requires_grad_(False)
    assert describe_parameters(parts, model) == "30, 21 trained (70.00%): eye 9, small head 21 (trained)"
    model["small_head"][0].requires_grad_(False)
    assert describe_parameters(parts, model) == "30, 5 trained (16.67%): eye 9, small head 21 (5 trained)"
    assert describe_parameters(parts, None) == "30"
    large = {"eye": 9, "small head": 21, "large": 10_000}
    assert describe_parameters(large, model).partition(": ")[2] == "large 10,000, others 30 (5 trained)"
    del model["eye"]  # as where features are kept
    assert describe_parameters(parts, model) == "30, 5 trained (16.67%): eye 9, small head 21 (5 trained)"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"dataloader_drop_last": True},
        {"max_steps": 40},
        {"num_train_epochs": 2.5, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 128},
    ],
)
def test_steps_are_those_of_the_trainer(changes, tmp_path):
    args = arguments(tmp_path, **{"per_device_train_batch_size": 8, "eval_strategy": "no"} | changes)
    trainer = Trainer(nn.Linear(1, 1), args, train_dataset=[{"x": torch.zeros(1)}] * 101)
    expected = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    steps, epochs = count_steps(args, 101)
    assert steps == expected[-1]
    assert epochs == pytest.approx(changes.get("max_steps", args.num_train_epochs * expected[1]) / expected[1])


def run_steps(lines: TrainingLines, args, steps: range, state: TrainerState, second: float, clock: list[float]):
    for step in steps:
        clock[0] += second
        state.global_step = step
        lines.on_step_end(args, state, TrainerControl())


def test_time_to_go_is_told_after_the_first_steps_and_again_with_evaluations(tmp_path, capsys):
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=50)
    state = TrainerState(max_steps=200, eval_steps=50, num_train_epochs=2, is_world_process_zero=True)
    lines, clock = TrainingLines(bar=False, final_rows=400), [0.0]
    lines.clock = lambda: clock[0]
    lines.on_train_begin(args, state, TrainerControl())
    run_steps(lines, args, range(1, 4), state, 30.0, clock)  # warm-up is not timed
    run_steps(lines, args, range(4, 13), state, 3.0, clock)
    assert capsys.readouterr().out == ""
    run_steps(lines, args, range(13, 51), state, 3.0, clock)
    assert capsys.readouterr().out == "About 9 minutes to go, evaluations not included.\n"  # 187 steps of 3 s
    clock[0] += 500  # a slow evaluation is no part of a step
    lines.on_evaluate(args, state, TrainerControl(), metrics=EVALUATED | {"eval_runtime": 60.0})
    # 150 steps of 3 s, 3 evaluations of 60 s, and 400 rows at 200 rows in 60 s
    assert capsys.readouterr().out == "About 12 minutes to go, evaluations included.\n"
    run_steps(lines, args, range(51, 101), state, 3.0, clock)
    lines.on_evaluate(args, state, TrainerControl(), metrics=EVALUATED)
    assert capsys.readouterr().out == ""


def test_time_to_go_of_a_run_that_resumes_is_of_its_own_steps(tmp_path, capsys):
    args = arguments(tmp_path, do_eval=False)
    state = TrainerState(max_steps=120, global_step=100, num_train_epochs=2, is_world_process_zero=True)
    lines, clock = TrainingLines(bar=False), [0.0]
    lines.clock = lambda: clock[0]
    lines.on_train_begin(args, state, TrainerControl())
    run_steps(lines, args, range(101, 121), state, 2.0, clock)
    assert capsys.readouterr().out == "About 14 seconds to go.\n"  # 3 steps of warm-up, 10 timed, 7 left


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        (
            {"loss": 2.34567, "grad_norm": 1.0, "learning_rate": 0.00012345, "epoch": 0.256},
            "step 10 of 1,000, epoch 0.26: loss 2.346, learning rate 0.00012",
        ),
        (EVALUATED, "step 10 of 1,000, epoch 1.00: validation loss 0.5123, EM 45.00, F1 47.26"),
        ({"train_runtime": 65.0, "train_loss": 1.0, "epoch": 2.0}, "Trained in 65 seconds."),
        ({"test_loss": 1.0}, None),
    ],
)
def test_a_log_is_one_short_line(logs, expected):
    assert log_line(logs, 10, 1000) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 second"), (89, "89 seconds"), (100, "2 minutes"), (7200, "2.0 hours")]
)
def test_durations_are_words(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize("silent", [True, False])
def test_trainer_shows_the_short_lines_and_nothing_twice(tmp_path, silent):
    trainer = Trainer(nn.Linear(1, 1), arguments(tmp_path, disable_tqdm=silent, eval_strategy="no"))
    show_progress(trainer, 7)
    kinds = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert "PrinterCallback" not in kinds
    assert "ProgressCallback" not in kinds
    [own] = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TrainingLines)]
    assert (own.bar, own.final_rows) == (not silent, 7)


def test_files_to_open_are_those_that_are_there(tmp_path):
    (tmp_path / "report").mkdir()
    for name in ("report/report.md", "predictions_test.jsonl"):
        (tmp_path / name).touch()
    lines = what_to_open(tmp_path, trained=False).splitlines()
    assert lines == [
        f"Figures and predictions are in {tmp_path}",
        "  report/report.md              figures by kind of question",
        "  predictions_test.jsonl        each test answer with its confidence",
    ]
    command = what_to_open(tmp_path, trained=True).splitlines()[-1]
    assert command == f'  medical-vqa ask {tmp_path} --image IMAGE --question "..."'


def test_written_answers_have_no_list(dataset):
    trainer = SimpleNamespace(candidates=[])
    assert FAMILIES["blip2"].vocabulary(trainer) is None
    trainer.candidates = ["no", "yes"]
    assert FAMILIES["blip2"].vocabulary(trainer) == {"no": 0, "yes": 1}
