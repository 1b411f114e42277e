"""SQuAD v2 Exact Match and F1: the `evaluate` module and its scoring in plain Python."""
