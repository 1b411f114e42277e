"""A training run: its arguments, checkpoints, evaluation and record."""
