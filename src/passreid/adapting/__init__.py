"""Unsupervised adaptation by cluster contrast."""
