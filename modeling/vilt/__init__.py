"""ViLT: a classifier over an answer vocabulary."""
