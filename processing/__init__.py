"""Rows and images in, tensors out."""
