"""Read and write weights: locate, read as data, recognise, infer, match names, load strictly.

sources.py     find the weight file and the configuration beside it
files.py       weight files as plain data
layouts.py     how each family names the tensors
infer.py       the architecture: from shapes, given, or assumed
load.py        all of it in one pass -> model, card, LoadReport (report.py)
save.py        model folders, PASS and timm files, averages
positions.py   position tables on another grid;  stem.py  ImageNet weights of a stem
"""

from __future__ import annotations

from passreid.checkpoint.infer import Overrides
from passreid.checkpoint.load import Loaded, initialise, load_checkpoint, load_folder
from passreid.checkpoint.positions import resize_positions
from passreid.checkpoint.report import LoadReport
from passreid.checkpoint.save import average, save_as, save_folder

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
