"""Supervised fine-tuning on a labelled set: the released PASS recipe and what it lacks."""
