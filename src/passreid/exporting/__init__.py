"""Write a model for other engines; nothing is left behind unless its outputs match torch's.

graph.py     `model.onnx` and `attention.onnx`, exact, on the folder's own weights
variants.py  files of their own: float16, int8, with normalisation inside, in OpenVINO's format
"""

from __future__ import annotations

from passreid.exporting.graph import write_graph
from passreid.exporting.variants import write_variant

__all__ = ["write_graph", "write_variant"]
