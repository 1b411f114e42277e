"""Tries what other libraries make of a run's options, on a handful of numbers and before anything is loaded."""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import SchedulerType

from modeling.training.ranges import option_text
from processing.errors import UserError

METRIC_SCHEDULERS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
LOWEST_OF_GREEDY = 1e-3  # its own default for min_lr
UNKNOWN_STEPS = 1000  # of a run whose rows are not loaded yet
USED_VALUE = "0.123"  # of no optimizer's option by default


@contextmanager
def _refusing(flags: str, mend: str = "") -> Iterator[None]:
    """Turns whatever a library raises, for want of a package or for a value, into one sentence.

    Raises:
        UserError: something was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{flags}: {' '.join(str(error).split()).rstrip('.')}{mend}.") from error


def try_options(args: Any) -> None:
    """Makes the trackers, and for training an optimizer, its schedule and what `torch.compile` needs.

    Raises:
        UserError: a package is missing, or a library refuses a value.
    """
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            if name in ("all", "none"):
                raise UserError(f"--report_to {' '.join(args.report_to)}: {name} stands alone; leave out the others.")
            raise UserError(f"--report_to {option_text(name)}: choose all, none or some of {known}.")
        with _refusing(f"--report_to {option_text(name)}"):
            INTEGRATION_TO_CALLBACK[name]()
    if args.torch_compile:
        _try_compiling(args)
    if args.do_train:
        _try_optimizer(args)
        if args.activation_checkpointing:
            _try_checkpointing(args)


def _try_optimizer(args: Any) -> None:
    flags = f"--optim {args.optim.value}"
    if args.optim_args:
        flags += f" --optim_args {option_text(args.optim_args)}"
        if any(pair.count("=") != 1 for pair in args.optim_args.split(",")):
            raise UserError(f"{flags}: expected name=value pairs with commas between them.")
    parameter = nn.Parameter(torch.zeros(8, 8, device=args.device))
    parameter.grad = torch.zeros_like(parameter)
    with _refusing(flags):
        try:
            optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args)
        except ValueError as error:
            if "need to pass a" not in str(error):
                raise
            return  # GaLore, APOLLO and LOMO are here, and need the model to say more
        if not isinstance(optimizer_class, type):
            return
        _check_optim_args(args)
        optimizer = optimizer_class([parameter], **options)
        if hasattr(optimizer, "train"):
            optimizer.train()
        optimizer.step()
        _try_schedule(args, optimizer)


def _check_optim_args(args: Any) -> None:
    """Refuses what the optimizer would not read: transformers drops it without a word."""
    given = args.optim_args
    pairs = (given or "").replace(" ", "").split(",")
    try:
        args.optim_args = None
        defaults = Trainer.get_optimizer_cls_and_kwargs(args)[1]
        for pair in filter(None, pairs):
            name = pair.partition("=")[0]
            args.optim_args = f"{name}={USED_VALUE}"
            try:
                used = Trainer.get_optimizer_cls_and_kwargs(args)[1] != defaults
            except ValueError:
                used = True  # as something else than a number
            if not used:
                raise UserError(f"--optim_args {option_text(given)}: --optim {args.optim.value} has no option {name}.")
    finally:
        args.optim_args = given


def _try_schedule(args: Any, optimizer: torch.optim.Optimizer) -> None:
    name, options = args.lr_scheduler_type, dict(args.lr_scheduler_kwargs or {})
    flags = f"--lr_scheduler_type {name.value}"
    if options:
        flags += f" --lr_scheduler_kwargs '{option_text(json.dumps(options))}'"
    mend = "" if options else "; its options are given as in --lr_scheduler_kwargs '{\"num_cycles\": 2}'"
    if any(isinstance(value, list | dict) for value in options.values()):
        raise UserError(f"{flags}: give one value for each option; it is that of all parameters.")
    steps = args.max_steps if args.max_steps > 0 else UNKNOWN_STEPS
    with _refusing(flags, mend):
        schedule = get_scheduler(name, optimizer, args.get_warmup_steps(steps), steps, options)
        for _ in range(2):
            optimizer.step()  # PyTorch warns where a schedule runs ahead of it
            schedule.step(*([0.0] if name in METRIC_SCHEDULERS else []))
        lowest = float(options.get("min_lr", LOWEST_OF_GREEDY))
        if name == SchedulerType.GREEDY and lowest > args.learning_rate:
            raise UserError(
                f"{flags}: its min_lr, {lowest:g}, is above --learning_rate {args.learning_rate:g}; give another, as "
                "in --lr_scheduler_kwargs '{\"min_lr\": 1e-6}'."
            )


def _try_compiling(args: Any) -> None:
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    flags = f"--torch_compile_backend {option_text(backend)}"
    if mode is not None:
        flags += f" --torch_compile_mode {option_text(mode)}"
    with _refusing(flags):
        TorchDynamoPlugin(backend=backend, mode=mode)
        numbers = torch.ones(2, device=args.device, requires_grad=True)
        torch.compile(_sum_of_squares, backend=backend, mode=mode)(numbers).backward()


def _sum_of_squares(numbers: torch.Tensor) -> torch.Tensor:
    return (numbers * numbers).sum()


def _try_checkpointing(args: Any) -> None:
    options = dict(args.activation_checkpointing_kwargs or {})
    flags = f"--activation_checkpointing_kwargs '{option_text(json.dumps(options))}'"
    known = {"every_n_layers", "offload", "preserve_rng_state", *inspect.signature(checkpoint).parameters}
    known -= {"function", "args", "kwargs", "context_fn"}
    for name in options:
        if name not in known:
            raise UserError(f"{flags}: no option {option_text(name)}; choose from {', '.join(sorted(known))}.")
    layers = options.pop("every_n_layers", 1)
    if not isinstance(layers, int) or layers < 1:
        raise UserError(f"{flags}: every_n_layers must be a whole number, 1 or more.")
    if options.pop("offload", False) and args.device.type == "cpu":
        raise UserError(f"{flags}: offload needs a GPU.")
    numbers = torch.ones(2, device=args.device, requires_grad=True)
    with _refusing(flags):
        checkpoint(_sum_of_squares, numbers, **(options or {"use_reentrant": False})).backward()
