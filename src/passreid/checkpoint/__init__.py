"""Weights in and out: detect, rename by reversible tables, resize the grid, load strictly.

files.py       weight files as inert data, written whole or not at all
layouts.py     how each family spells the tensors; architecture from shapes
positions.py   position tables on another grid
modelscope.py  configuration.json
stored.py      a file or folder -> our tensor names, strictly
load.py        -> a model;  save.py  the way back
average.py     several runs -> one model
"""

from __future__ import annotations

from passreid.checkpoint.average import average
from passreid.checkpoint.load import Loaded, initialise, load_checkpoint, load_folder
from passreid.checkpoint.positions import resize_positions
from passreid.checkpoint.report import LoadReport
from passreid.checkpoint.save import save_as, save_folder

__all__ = [
    "LoadReport",
    "Loaded",
    "average",
    "initialise",
    "load_checkpoint",
    "load_folder",
    "resize_positions",
    "save_as",
    "save_folder",
]
