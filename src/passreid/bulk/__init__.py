"""Embed millions of images into Parquet: in one process, in several, or on a Ray cluster.

sources ─ plan ─▶ parts ─ embed_part (any process) ─▶ Parquet bytes ─ one writer ─▶ folder
"""

from __future__ import annotations

from passreid.bulk.run import Bulk, add_to_gallery, embed_all

__all__ = ["Bulk", "add_to_gallery", "embed_all"]
