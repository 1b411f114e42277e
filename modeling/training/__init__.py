"""A training run: what it is told, its checkpoints, its evaluation and its record."""
