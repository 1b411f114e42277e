"""modeling.training.checks, ranges and trial: each sentence about options that can't work."""

import json

import pytest
from datasets import Dataset, DatasetDict

import train
from metrics.vqa import score_answers
from modeling.training.arguments import ViltTrainingArguments
from modeling.training.checks import FIGURES as FIGURES_OF_ALL
from modeling.training.checks import FIGURES_OF_SOME, check_output_dir, check_rows, check_together
from modeling.training.parser import parse_arguments
from modeling.training.ranges import RANGES, option_text
from processing.data import load_vqa_dataset
from processing.errors import UserError
from tests.support.tiny_blip2 import tiny_blip2

BLIP2 = "--model_type blip2 "
OUT_OF_RANGE = {
    "--seed -1": "--seed -1: must be 0 or more.",
    "--seed 4294967296": "--seed 4294967296: must be 4294967295 or less.",
    "--data_seed -3": "--data_seed -3: must be 0 or more.",
    "--split_seed -1": "--split_seed -1: must be 0 or more.",
    "--max_train_samples 0": "--max_train_samples 0: must be 1 or more; --do_train False evaluates only.",
    "--max_train_samples -5": "--max_train_samples -5: must be 1 or more; --do_train False evaluates only.",
    "--max_eval_samples 0": "--max_eval_samples 0: must be 1 or more; --do_eval False leaves the evaluation out.",
    "--max_predict_samples 0": "--max_predict_samples 0: must be 1 or more; --do_predict False leaves the test out.",
    "--per_device_train_batch_size 0": "--per_device_train_batch_size 0: must be 1 or more.",
    "--per_device_eval_batch_size -2": "--per_device_eval_batch_size -2: must be 1 or more.",
    "--gradient_accumulation_steps 0": "--gradient_accumulation_steps 0: must be 1 or more.",
    "--learning_rate -1": "--learning_rate -1: must be 0 or more.",
    "--learning_rate nan": "--learning_rate nan: must be a finite number.",
    "--learning_rate inf": "--learning_rate inf: must be a finite number.",
    "--max_steps 0": "--max_steps 0: must be 1 or more, or -1 for as many as --num_train_epochs takes.",
    "--max_steps -2": "--max_steps -2: must be 1 or more, or -1 for as many as --num_train_epochs takes.",
    "--num_train_epochs 0": "--num_train_epochs 0: must be more than 0; --do_train False evaluates only.",
    "--warmup_steps -1": "--warmup_steps -1: must be 0 or more.",
    "--warmup_steps 1.5": "--warmup_steps 1.5: must be a whole number of steps, or a share of them below 1.",
    "--logging_steps 0": "--logging_steps 0: must be more than 0; --logging_strategy no logs nothing.",
    "--eval_steps 0": "--eval_steps 0: must be more than 0; --eval_strategy no evaluates at the end alone.",
    "--save_steps -1": "--save_steps -1: must be more than 0; --save_strategy no saves no checkpoint.",
    "--eval_accumulation_steps 0": "--eval_accumulation_steps 0: must be 1 or more.",
    "--save_total_limit -1": "--save_total_limit -1: must be 0 or more (0 keeps all).",
    "--weight_decay -0.1": "--weight_decay -0.1: must be 0 or more.",
    "--adam_beta1 1": "--adam_beta1 1: must be less than 1.",
    "--adam_beta2 -0.1": "--adam_beta2 -0.1: must be 0 or more.",
    "--adam_epsilon 0": "--adam_epsilon 0: must be more than 0.",
    "--max_grad_norm -1": "--max_grad_norm -1: must be 0 or more (0 clips nothing).",
    "--neftune_noise_alpha -1": "--neftune_noise_alpha -1: must be 0 or more.",
    "--dataloader_num_workers -1": "--dataloader_num_workers -1: must be 0 or more.",
    "--dataloader_prefetch_factor 0": "--dataloader_prefetch_factor 0: must be 1 or more.",
    "--ddp_timeout 0": "--ddp_timeout 0: must be 1 or more.",
    "--questions_per_image 0": "--questions_per_image 0: must be 1 or more.",
    "--feature_cache_gb -1": "--feature_cache_gb -1: must be 0 or more (0 keeps none).",
    "--feature_cache_gb inf": "--feature_cache_gb inf: must be a finite number.",
    "--early_stopping_patience 0": "--early_stopping_patience 0: must be 1 or more.",
    "--neftune_noise_alpha 1e300": "--neftune_noise_alpha 1e+300: must be 1000 or less.",
    "--feature_cache_gb 1e300": "--feature_cache_gb 1e+300: must be 1000000 or less.",
    "--per_device_eval_batch_size 99999999": "--per_device_eval_batch_size 99999999: must be 1048576 or less.",
    "--questions_per_image 99999999": "--questions_per_image 99999999: must be 1000 or less.",
    "--vision_learning_rate -1": "--vision_learning_rate -1: must be 0 or more.",
    f"{BLIP2}--lora_r 0": "--lora_r 0: must be 1 or more.",
    f"{BLIP2}--lora_alpha -1": "--lora_alpha -1: must be 1 or more.",
    f"{BLIP2}--lora_dropout 1.5": "--lora_dropout 1.5: must be less than 1.",
    f"{BLIP2}--alignment_epochs -1": "--alignment_epochs -1: must be 0 or more.",
    f"{BLIP2}--max_new_tokens 0": "--max_new_tokens 0: must be 1 or more.",
    f"{BLIP2}--max_new_tokens 100000": "--max_new_tokens 100000: must be 1024 or less.",
    f"{BLIP2}--generation_num_beams 0": "--generation_num_beams 0: must be 1 or more.",
    f"{BLIP2}--qformer_learning_rate nan": "--qformer_learning_rate nan: must be a finite number.",
}
BEST = "--load_best_model_at_end True "
FIGURES = "exact_match, f1, accuracy, open_exact_match, open_f1, closed_exact_match, closed_f1, no_neighbour_exact"
REFUSED = {
    f"{BEST}--metric_for_best_model bleu": f"bleu: not among the figures; choose from {FIGURES}",
    "--metric_for_best_model eval_foo": "--metric_for_best_model eval_foo: not among the figures",
    "--metric_for_best_model runtime": "--metric_for_best_model runtime: not among the figures",
    f"{BLIP2}--metric_for_best_model loss": "--metric_for_best_model loss: not among the figures",
    f"{BLIP2}--metric_for_best_model generated_f1": "--metric_for_best_model generated_f1: not among the figures",
    f"{BEST}--do_eval False": "--load_best_model_at_end needs evaluations while training: --do_eval True",
    f"{BEST}--eval_strategy no --save_strategy no": "--load_best_model_at_end needs evaluations while training",
    f"{BEST}--save_strategy steps": "needs checkpoints of the same steps: --save_strategy epoch.",
    "--save_strategy best --eval_strategy no": "--save_strategy best needs evaluations while training",
    "--early_stopping_patience 2": "--early_stopping_patience needs --load_best_model_at_end True.",
    "--lr_scheduler_type greedy --eval_strategy no": "--lr_scheduler_type greedy needs evaluations while training",
    "--lr_scheduler_type greedy": "its min_lr, 0.001, is above --learning_rate 2e-05; give another, as in",
    "--lr_scheduler_type cosine_with_min_lr": "One of min_lr or min_lr_rate should be set",
    "--lr_scheduler_type warmup_stable_decay": "'num_decay_steps'; its options are given as in --lr_scheduler_",
    "--lr_scheduler_type polynomial --learning_rate 1e-9": "must be smaller than initial lr (1e-09)",
    "--lr_scheduler_kwargs {}x": "--lr_scheduler_kwargs {}x: not valid JSON",
    "--lr_scheduler_kwargs [1]": "--lr_scheduler_kwargs [1]: must be a JSON object",
    '--lr_scheduler_kwargs {"cycles":2}': "unexpected keyword argument 'cycles'",
    "--optim schedule_free_adamw": "You need to install `schedulefree`",
    "--optim galore_adamw": "--optim galore_adamw: You need to install `galore_torch`",
    "--optim apollo_adamw": "--optim apollo_adamw: You need to install `apollo_torch`",
    "--optim adamw_torch_4bit": "You need to have `torchao>=0.4.0`",
    "--optim lomo": "You need to install `lomo_optim`",
    "--optim schedule_free_sgd": "You need to install `schedulefree`",
    "--optim_args alpha=1": "--optim adamw_torch_fused has no option alpha.",
    "--optim rmsprop --optim_args alpha": "--optim rmsprop --optim_args alpha: expected name=value pairs",
    "--optim rmsprop --optim_args alpha=x": "could not convert string to float: 'x'",
    "--report_to wandb": "--report_to wandb: WandbCallback requires wandb to be installed. Run `pip install wandb`.",
    "--report_to tensorboard mlflow": "--report_to mlflow: MLflowCallback requires mlflow to be installed.",
    "--report_to none tensorboard": "--report_to none tensorboard: none stands alone; leave out the others.",
    '--accelerator_config {"split_batches":"maybe"}': "--accelerator_config: split_batches must be true or false",
    "--report_to paper": "--report_to paper: choose all, none or some of azure_ml,",
    "--train_sampling_strategy group_by_length": "rows have no lengths to go by; choose random or sequential.",
    "--debug tpu_metrics_debug": "training on TPUs is not supported; choose underflow_overflow.",
    "--hub_strategy checkpoint": "the finished model alone is pushed, once; leave the flag out.",
    "--dataloader_persistent_workers True": "persistent_workers needs --dataloader_num_workers 1 or more.",
    "--activation_checkpointing_kwargs {}": "--activation_checkpointing_kwargs needs --activation_checkpointing True.",
    '--activation_checkpointing True --activation_checkpointing_kwargs {"fast":1}': "no option fast; choose from",
    '--activation_checkpointing True --activation_checkpointing_kwargs {"offload":true}': "offload needs a GPU.",
    '--accelerator_config {"batches":1}': "--accelerator_config: no option batches; choose from dispatch_batches,",
    "--accelerator_config nowhere.json": "--accelerator_config nowhere.json: there is no such file",
    '--activation_checkpointing True --activation_checkpointing_kwargs {"every_n_layers":"x"}': "1 or more.",
    '--activation_checkpointing True --activation_checkpointing_kwargs {"debug":true}': "use_reentrant=False.",
    '--lr_scheduler_type greedy --lr_scheduler_kwargs {"min_lr":"x"}': "could not convert string to float: 'x'",
    '--lr_scheduler_type greedy --lr_scheduler_kwargs {"min_lr":[0]}': "give one value for each option",
    '--accelerator_config {"gradient_accumulation_kwargs":{"steps":3}}': "has no option steps; choose from adjust_",
    '--accelerator_config {"gradient_accumulation_kwargs":{"num_steps":3}}': "num_steps is set by",
    "--include_num_input_tokens_seen some": "tokens_seen some: choose from all, non_padding and no.",
    "--resume_from_checkpoint True": "without this flag a run resumes from the last checkpoint in --output_dir.",
    "--column_names image": "--column_names image: expected field=column, as in image=file_name.",
    "--model_name_or_path starter --fp16_full_eval True": "--fp16_full_eval: the starter keeps its weights in FP32",
    "--do_train False --do_eval False": "so there is nothing to do.",
    f"{BLIP2}--modules_to_save qformer": "attention: --modules_to_save qformer trains all of it already",
    f"{BLIP2}--lora_targets projection --modules_to_save language_projection": "trains all of it already; add another",
    f"{BLIP2}--lora_targets dense projection --modules_to_save qformer language_projection": "dense projection: "
    "--modules_to_save qformer language_projection trains all of it already; add another target, such as language",
    f"{BLIP2}--qformer_learning_rate 1e-4": "--qformer_learning_rate needs --modules_to_save qformer or vision_top.",
}


@pytest.mark.parametrize(("flags", "sentence"), OUT_OF_RANGE.items(), ids=OUT_OF_RANGE)
def test_number_out_of_its_range(flags, sentence, tmp_path):
    with pytest.raises(UserError) as refused:
        parse_arguments([*flags.split(), "--output_dir", str(tmp_path / "out")])
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.items(), ids=REFUSED)
def test_options_that_cannot_work(flags, sentence, tmp_path):
    with pytest.raises(UserError) as refused:
        parse_arguments([*flags.split(), "--output_dir", str(tmp_path / "out")])
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_long_values_are_quoted_in_part():
    text = "x" * 1000
    assert option_text(text) == "x" * 77 + "..."
    for flags in (["--report_to", text], ["--seed", text], [f"--{text}", "1"], ["--metric_for_best_model", text]):
        with pytest.raises(UserError) as refused:
            parse_arguments(flags)
        assert "x" * 70 in str(refused.value)
        assert "x" * 81 not in str(refused.value)


@pytest.mark.parametrize("name", [name for name in RANGES if "steps" in name and name != "max_steps"])
def test_defaults_and_shares_of_steps_are_in_range(name, tmp_path):
    if RANGES[name].steps:
        assert RANGES[name].complaint(0.5) is None
    assert RANGES[name].complaint(3) is None


def test_recipe_for_training_still_evaluates(tmp_path):
    """What training alone needs is no fault where the same recipe evaluates."""
    flags = "--eval_strategy steps --eval_steps 5 --load_best_model_at_end True --early_stopping_patience 2"
    flags += " --save_strategy best --lr_scheduler_type reduce_lr_on_plateau --optim lomo --do_train False"
    _, args = parse_arguments([*flags.split(), "--output_dir", str(tmp_path)])
    assert (args.do_train, args.eval_strategy, args.load_best_model_at_end) == (False, "no", False)


@pytest.mark.parametrize(("metric", "mode"), [("exact_match", "max"), ("loss", "min")])
def test_schedule_by_a_figure_knows_which_way_is_better(metric, mode, tmp_path):
    flags = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", metric]
    _, args = parse_arguments([*flags, "--output_dir", str(tmp_path)])
    assert args.lr_scheduler_kwargs == {"mode": mode}
    _, args = parse_arguments([*flags, "--lr_scheduler_kwargs", '{"mode": "min"}', "--output_dir", str(tmp_path)])
    assert args.lr_scheduler_kwargs == {"mode": "min"}


def test_steps_that_another_strategy_leaves_unused_are_named(caplog, tmp_path):
    parse_arguments(["--eval_steps", "5", "--save_steps", "7", "--output_dir", str(tmp_path)])
    assert "--eval_steps has no effect, as --eval_strategy is epoch." in caplog.text
    assert "--save_steps has no effect, as --save_strategy is epoch." in caplog.text
    caplog.clear()
    parse_arguments(["--eval_steps", "5", "--eval_strategy", "steps", "--output_dir", str(tmp_path)])
    assert "has no effect" not in caplog.text


def test_fsdp_and_backends_are_for_several_processes(tmp_path, monkeypatch):
    args = ViltTrainingArguments(output_dir=str(tmp_path))
    args.fsdp, args.ddp_backend = True, "gloo"
    with pytest.raises(UserError, match="--fsdp needs several processes"):
        check_together(args)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_together(args)


@pytest.mark.parametrize("value", ["False", "false", ""])
def test_fsdp_false_is_no_fsdp(value, tmp_path):
    assert not parse_arguments(["--fsdp", value, "--output_dir", str(tmp_path)])[1].fsdp


def test_optimizer_of_an_installed_package_that_needs_the_model_is_left_to_the_trainer(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.trainer_optimizer.is_lomo_available", lambda: True)
    _, args = parse_arguments(["--optim", "lomo", "--output_dir", str(tmp_path)])
    assert args.optim == "lomo"


@pytest.fixture
def dataset(phantoms) -> DatasetDict:
    return load_vqa_dataset(str(phantoms))


def test_figure_of_rows_that_validation_does_not_have(dataset, tmp_path):
    closed = DatasetDict(
        {**dataset, "validation": dataset["validation"].filter(lambda row: row["answer_type"] == "CLOSED")}
    )
    for metric in ("closed_f1", "eval_closed_exact_match", "f1"):
        check_rows(parse_arguments(["--metric_for_best_model", metric, "--output_dir", str(tmp_path)])[1], closed)
    for metric in ("open_f1", "HasAns_f1", "best_f1"):
        _, args = parse_arguments(["--metric_for_best_model", metric, "--output_dir", str(tmp_path)])
        with pytest.raises(
            UserError, match=f"{metric}: no validation row is of this kind; choose from exact_match, f1, accuracy"
        ):
            check_rows(args, closed)


def test_figures_to_choose_from_are_those_that_are_computed(dataset, tmp_path):
    rows = [
        {"answer": text, "answer_type": kind, "language": "en"} for text in ("", "left") for kind in ("OPEN", "CLOSED")
    ]
    rows[3]["choices"] = ["left", "right"]
    rows[0]["overlap"], rows[1]["overlap"] = "none", "same"
    figures = score_answers(rows, ["left"] * 4).keys()
    assert {*FIGURES_OF_ALL, *FIGURES_OF_SOME} <= figures
    others = {name for name in figures - {*FIGURES_OF_ALL, *FIGURES_OF_SOME} if not name.endswith(("total", "thresh"))}
    assert not others


def test_figures_of_written_answers_need_rows_without_choices(dataset, tmp_path):
    flags = [*BLIP2.split(), "--answer_candidates", "train", "--output_dir", str(tmp_path)]
    _, args = parse_arguments([*flags, "--metric_for_best_model", "generated_f1"])
    check_rows(args, dataset)
    rows = [row | {"choices": [row["answer"], "x"]} for row in dataset["validation"].to_list()]
    with pytest.raises(UserError, match="generated_f1: no validation row is of this kind; .*, choice_accuracy"):
        check_rows(args, DatasetDict({**dataset, "validation": Dataset.from_list(rows)}))


def test_candidates_need_training_rows(dataset, tmp_path):
    _, args = parse_arguments([*BLIP2.split(), "--answer_candidates", "train", "--output_dir", str(tmp_path)])
    with pytest.raises(UserError, match="--answer_candidates train: the data set has no training rows"):
        check_rows(args, DatasetDict({"test": dataset["test"]}))


FEW = "--model_name_or_path scratch:tiny --max_steps 2 --max_train_samples 10 --max_eval_samples 7 --disable_tqdm True"


def test_last_batch_is_dropped_in_training_and_never_in_evaluation(phantoms, tmp_path):
    flags = "--dataloader_drop_last True --per_device_train_batch_size 8 --per_device_eval_batch_size 4"
    train.main([*FEW.split(), *flags.split(), "--dataset", str(phantoms), "--output_dir", str(tmp_path)])
    figures = json.loads((tmp_path / "all_results.json").read_text())
    assert figures["eval_total"] == 7
    assert figures["epoch"] == 2  # of one batch each


@pytest.mark.parametrize("family", ["vilt", "blip2"])
def test_training_that_diverges_is_a_sentence(family, phantoms, dataset, tmp_path):
    flags = "--learning_rate 1e30 --max_steps 4 --per_device_train_batch_size 4"
    if family == "blip2":
        flags += f" --model_type blip2 --model_name_or_path {tiny_blip2('opt', dataset, tmp_path / 'base')}"
    with pytest.raises(UserError, match="its training has diverged; use a smaller --learning_rate"):
        train.main([*FEW.split(), *flags.split(), "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())


def test_dropping_every_training_row_is_refused(phantoms, tmp_path):
    flags = "--dataloader_drop_last True --per_device_train_batch_size 16"
    with pytest.raises(UserError, match="drops all 10 training rows, as a batch has 16"):
        train.main([*FEW.split(), *flags.split(), "--dataset", str(phantoms), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in ((tmp_path / "file", "it is a file"), (tmp_path / "file" / "out", "Not a directory")):
        with pytest.raises(UserError, match=f"can't be written to .{reason}.; choose another folder"):
            check_output_dir(str(folder))
    with pytest.raises(UserError, match="--output_dir is empty; name a folder"):
        check_output_dir(" ")
    check_output_dir(str(tmp_path / "a" / "b"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_sequential_rows_are_in_the_order_of_the_data(dataset, tmp_path, monkeypatch):
    from modeling.vilt.family import build_model, build_trainer

    for questions in ("1", "4"):
        flags = ["--train_sampling_strategy", "sequential", "--questions_per_image", questions]
        _, args = parse_arguments([*FEW.split()[:2], *flags, "--output_dir", str(tmp_path)])
        trainer = build_trainer(args, *build_model(args, dataset), dataset)
        assert list(trainer._get_train_sampler()) == list(range(len(dataset["train"])))
