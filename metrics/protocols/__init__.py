"""Named ways of the field to score answers: `python -m metrics.protocols PREDICTIONS`."""
