"""All crops of a list as one network sees them, shared among the processes of a run."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import Dataset

from passreid.backends.pytorch import TorchBackend
from passreid.card import ModelCard
from passreid.data.filelist import FileList
from passreid.embed import read_crop
from passreid.errors import ImageError
from passreid.images import normalise
from passreid.model import PartViT
from passreid.training.batches import Batches
from passreid.training.process import Process

_BATCH = 64


class _Plain(Dataset[tuple[torch.Tensor, bool]]):
    """Every so many-th crop as the model's card wants it, and whether it could be read."""

    def __init__(self, files: FileList, card: ModelCard, rows: range) -> None:
        self.files, self.card, self.rows = files, card, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, bool]:
        try:
            picture = self.files.read(self.rows[index])
            return torch.from_numpy(read_crop(picture, self.card)), True
        except ImageError:
            height, width = self.card.architecture.image_size
            return torch.zeros(height, width, 3, dtype=torch.uint8), False


def embed_all(
    model: PartViT,
    card: ModelCard,
    files: FileList,
    *,
    process: Process,
    precision: str = "float32",
    workers: int = 0,
) -> NDArray[np.float32]:
    """Embed every crop of a list, each process its share.

    Args:
        model: In evaluation mode; it is frozen.
        card: Supplies size and normalisation.
        files: N crops.
        process: This process; all get the whole answer.
        precision: As `TorchBackend` takes it.
        workers: Data-loading processes.

    Returns:
        (N, D) float32; the row of a crop that cannot be read is NaN.
    """
    backend = TorchBackend(model, device=str(process.device), precision=precision)
    rows = range(process.rank, len(files), process.world)
    plain = _Plain(files, card, rows)
    chunks = [range(i, min(i + _BATCH, len(rows))) for i in range(0, len(rows), _BATCH)]
    loader: Batches[list[torch.Tensor]] = Batches(
        plain, chunks, workers=workers, device=process.device
    )
    found = np.full((len(rows), card.architecture.dim), np.nan, np.float32)
    start = 0
    for pixels, readable in loader:
        part = backend.run(normalise(pixels.numpy(), card.mean, card.std))
        part[~readable.numpy()] = np.nan
        found[start : start + len(part)] = part
        start += len(part)
    if process.world == 1:
        return found
    whole = np.empty((len(files), found.shape[1]), np.float32)
    shares: list[NDArray[np.float32] | None] = [None] * process.world
    dist.all_gather_object(shares, found)
    for rank, share in enumerate(shares):
        whole[rank :: process.world] = share
    return whole
