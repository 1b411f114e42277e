"""What a command line shows: everything of this project; of libraries what a user must know, and with `-v` all."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

# Libraries whose warnings are about their own use, which a user can't change.
NOISY = ("accelerate", "datasets", "evaluate", "peft", "tokenizers", "transformers")
VERBOSITY = ("DATASETS_VERBOSITY", "EVALUATE_VERBOSITY", "TRANSFORMERS_VERBOSITY")  # read at a library's import
CHATTY = ("filelock", "fsspec", "httpcore", "httpx", "httpx2", "huggingface_hub", "urllib3")  # a line for each request
OWN = ("__main__", "benchmarks", "medical_vqa", "metrics", "modeling", "processing", "spaces_app", "train")
VERBOSE_FLAGS = ("-v", "--verbose")
VERBOSE_VARIABLE = "MEDICAL_VQA_VERBOSE"  # by which the flag reaches the processes that a command starts
# Warnings of torch about how it is called; others of its warnings may be about the machine, and are shown.
NOISE_OF_TORCH = (
    r".*torch\.jit\.",
    r".*lr_scheduler\.step\(\)",
    r".*pin_memory.* no accelerator",
    r".*nested tensors",
    r".*was asked to gather along dimension 0",
    r".*use_reentrant",
    r".*non-writable|.*not writable",
)


def pop_verbose(argv: list[str]) -> tuple[bool, list[str]]:
    """Whether a command line, or the one that started this process, has `-v` or `--verbose`; and its other words."""
    if any(word in VERBOSE_FLAGS for word in argv):
        os.environ[VERBOSE_VARIABLE] = "1"
    return os.environ.get(VERBOSE_VARIABLE) == "1", [word for word in argv if word not in VERBOSE_FLAGS]


def set_up_console(log_level: int, verbose: bool, clean: Callable[[str], str]) -> None:
    """Sends log lines and warnings to stderr.

    A library's log line is shown from WARNING on, or of one in `NOISY` from ERROR on. Its warnings are one line each;
    those about its own future, and those of `NOISY`, are left out. With `verbose` nothing is.

    Args:
        log_level: the lowest level that is shown of this project.
        clean: takes out of a text what must not be shown.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(clean))
    logging.basicConfig(level=logging.INFO if verbose else log_level, handlers=[handler])
    for library in CHATTY:
        logging.getLogger(library).setLevel(max(log_level, logging.WARNING))
    if verbose:
        return
    handler.addFilter(_is_shown)
    for library in NOISY:  # they have handlers of their own
        logging.getLogger(library).setLevel(logging.ERROR)
    for variable in VERBOSITY:
        os.environ.setdefault(variable, "error")
    _quiet_warnings(clean)


class _Formatter(logging.Formatter):
    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__("%(message)s")
        self.clean = clean

    def format(self, record: logging.LogRecord) -> str:
        return self.clean(super().format(record))


def _is_shown(record: logging.LogRecord) -> bool:
    library = record.name.partition(".")[0]
    if library in OWN:
        return True
    return record.levelno >= (logging.ERROR if library in NOISY else logging.WARNING)


def _quiet_warnings(clean: Callable[[str], str]) -> None:
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)
    for library in NOISY:
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
    for message in NOISE_OF_TORCH:
        warnings.filterwarnings("ignore", message, module=r"torch(\.|$)")

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = clean(" ".join(str(message).split()))
        print(f"warning: {text}", file=file or sys.stderr)

    warnings.showwarning = show
