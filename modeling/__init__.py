"""Models: built, trained, asked and published."""
