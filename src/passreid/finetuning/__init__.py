"""Supervised fine-tuning on labelled sets: the released PASS recipe and additions to it."""
