"""What a run says when memory is too small for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modeling.training.arguments import AnyTrainingArguments
from processing.errors import UserError


@contextmanager
def explain_out_of_memory(args: AnyTrainingArguments, training: bool) -> Iterator[None]:
    """Turns memory that is too small into one sentence with the flags that help.

    Args:
        args: of the run.
        training: else it evaluates.

    Raises:
        UserError: the memory of the GPU, or of the machine, is too small.
    """
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
            raise
        where = "GPU's memory" if on_gpu else "memory"
        if training:
            batch, steps = args.per_device_train_batch_size, args.gradient_accumulation_steps
            halved = f"--per_device_train_batch_size {batch // 2} --gradient_accumulation_steps {2 * steps}"
            mends = [halved] if batch > 1 else []
            if not args.gradient_checkpointing:
                mends.append("--gradient_checkpointing True")
            if args.model_type != "vilt" and args.quantization is None:
                mends.append("--quantization 4bit")
        else:
            batch = args.per_device_eval_batch_size
            mends = [f"--per_device_eval_batch_size {batch // 2}"] if batch > 1 else []
        doing = "Training" if training else "Evaluation"
        mend = f"try {', or '.join(mends)}" if mends else "take a smaller base model"
        raise UserError(f"{doing} needs more than the {where} at a batch of {batch}; {mend}.") from error
