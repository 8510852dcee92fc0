"""The verb `data pack`: images into shards."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from passreid.cli.app import app, complain, note

data = App(name="data", help="Prepare images for long runs.")
app.command(data)


@data.command
def pack(folder: Path, /, *, output: Path, per_shard: int = 10_000) -> int:
    """Pack a folder of images into WebDataset tar shards, for `pretrain`, `adapt` and `embed`.

    Images are stored byte for byte. Unreadable ones are left out and listed; exit code 1.

    Example: passreid data pack crops/ --output shards/

    Args:
        folder: A folder tree of images.
        output: A new folder for shard-000000.tar, shard-000001.tar, … and index.tsv.
        per_shard: Images in a shard.
    """
    from passreid.data.shards import pack as write_shards

    packed = write_shards(folder, output, per_shard=per_shard)
    note(f"Packed {packed.images} images into {packed.shards} shards in {output}.")
    if not packed.unreadable:
        return 0
    return complain(f"{len(packed.unreadable)} could not be read: {output}/unreadable.txt.", code=1)
