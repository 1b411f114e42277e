"""Asks a trained model: `Predictor.from_pretrained("user/name").answer("x.png", "Is this a CT scan?")`.

python -m modeling.predictor MODEL --image x.png --question "Is this a CT scan?" [--question ...] [--json]
python -m modeling.predictor MODEL --csv in.csv --out out.csv
"""

import logging

from modeling.asking.command_line import main
from modeling.asking.predictor import Alternative, Answer, Predictor
from processing.errors import run_command

__all__ = ["Alternative", "Answer", "Predictor"]

if __name__ == "__main__":
    run_command(main, logging.WARNING)
