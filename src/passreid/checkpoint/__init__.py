"""Weights in and out: detect, rename by reversible tables, resize the grid, load strictly.

sources.py     where the weights are, and what stands beside them
files.py       weight files as inert data, written whole or not at all
layouts.py     how each family spells the tensors
reading.py     the architecture: from shapes, said, or assumed
load.py        a file or folder -> a model, strictly;  save.py  the way back
positions.py   position tables on another grid
modelscope.py  configuration.json
average.py     several runs -> one model
"""

from __future__ import annotations

from passreid.checkpoint.average import average
from passreid.checkpoint.load import Loaded, initialise, load_checkpoint, load_folder
from passreid.checkpoint.positions import resize_positions
from passreid.checkpoint.reading import Overrides
from passreid.checkpoint.report import LoadReport
from passreid.checkpoint.save import save_as, save_folder

__all__ = [
    "LoadReport",
    "Loaded",
    "Overrides",
    "average",
    "initialise",
    "load_checkpoint",
    "load_folder",
    "resize_positions",
    "save_as",
    "save_folder",
]
