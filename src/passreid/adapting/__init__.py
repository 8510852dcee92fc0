"""Adaptation to crops without labels: cluster contrast (Dai et al. 2021), as PASS used it."""
