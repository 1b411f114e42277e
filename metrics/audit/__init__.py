"""What is wrong with a data set, and what figures on it are worth: `python -m metrics.audit DATA`."""
