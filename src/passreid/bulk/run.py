"""Embed any number of pictures into one folder, part by part: resumable, failures listed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from passreid import storage
from passreid.bulk.sources import Part, plan
from passreid.bulk.work import (
    FAILURES,
    Finished,
    Numbered,
    work_here,
    work_in_processes,
    work_on_ray,
)
from passreid.config import read_json
from passreid.embed import load
from passreid.errors import ConfigError, DatasetError, UsageError
from passreid.gallery.base import Added, Entry
from passreid.gallery.engine import Gallery
from passreid.storage import open_parquet

PER_PART = 2048
"""Files in a part: the most that a kill costs, for each worker."""

# Readers of Parquet data sets pass over names with an underscore in front.
RUN, FAILED = "_run.json", "_failures.jsonl"


class Bulk(NamedTuple):
    """Counts of a run: embeddings and failures in the folder, parts, and parts done before."""

    embeddings: int
    failures: int
    parts: int
    found: int


def embed_all(
    sources: Sequence[str],
    output: Path,
    *,
    model: Mapping[str, Any],
    workers: int = 1,
    ray: str | None = None,
    per_part: int = PER_PART,
    column: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Bulk:
    """Embed pictures into a folder of Parquet files, or resume an earlier run into it.

    A part's file appears when the part is complete. After a kill, the same call does the missing
    parts; the number of workers may differ.

    Args:
        sources: As in `plan`.
        output: Folder for `part-….parquet`, `_failures.jsonl` and `_run.json`.
        model: Options of `passreid.load`.
        workers: Processes on this machine, or Ray actors.
        ray: Address of a Ray cluster; "local" starts one on this machine.
        per_part: Files in a part.
        column: Of Parquet sources, as in `plan`.
        progress: Called with the parts done and their number.

    Raises:
        UsageError: Nothing to embed, the folder holds a run of other sources or another model, or
            lies in a source, where the next start would find it.
        DatasetError: A source or a part cannot be read; what is done is kept.
        MissingExtraError: A package is not installed.
        OutputError: The folder cannot be written.
    """
    if workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1.")
    for source in sources:
        if Path(source).is_dir() and output.resolve().is_relative_to(Path(source).resolve()):
            raise UsageError(f"{output} lies in {source}, which is to be read; name another place.")
    parts = plan(sources, per_part=per_part, column=column)
    identity = _begin(output, parts, model)
    missing = [number for number in range(len(parts)) if not _file(output, number).exists()]
    tasks = ((number, parts[number]) for number in missing)
    found = done = len(parts) - len(missing)
    progress(done, len(parts))
    if missing:
        for number, data in _worked(tasks, model, identity, workers=workers, ray=ray):
            storage.write(_file(output, number), data)
            done += 1
            progress(done, len(parts))
    embeddings, failures = _summed_up(output, len(parts))
    return Bulk(embeddings, failures, len(parts), found)


def add_to_gallery(folder: Path, gallery: Gallery) -> Added:
    """Enrol a finished folder, a few thousand rows in memory at a time.

    Entries that exist stay as they are, so this may be repeated.

    Args:
        folder: Written by `embed_all`.
        gallery: Of the same model.

    Raises:
        DatasetError: A part is damaged.
        EmbeddingError, GalleryError, OutputError: As `Gallery.add`.
    """
    added = known = 0
    for path in sorted(folder.glob("part-*.parquet")):
        with open_parquet(str(path), _damaged) as file:
            for batch in file.iter_batches(PER_PART):
                vectors = batch.column("embedding").flatten().to_numpy()
                rows = vectors.reshape(len(batch), -1)
                names, hashes = (batch.column(n).to_pylist() for n in ("source", "content_hash"))
                entries = [
                    Entry(content_hash=each, embedding=row, source=name)
                    for each, row, name in zip(hashes, rows, names, strict=True)
                ]
                now = gallery.add(entries)
                added, known = added + now.added, known + now.known
    return Added(added, known)


def identify(model: Mapping[str, Any]) -> str:
    """Return `Embedder.identity` of the model that options of `passreid.load` describe."""
    return load(**model).identity


def _worked(
    tasks: Iterable[Numbered],
    model: Mapping[str, Any],
    identity: str,
    *,
    workers: int,
    ray: str | None,
) -> Iterator[Finished]:
    if ray is not None:
        return work_on_ray(tasks, model, identity, workers=workers, address=ray)
    if workers > 1:
        return work_in_processes(tasks, model, identity, workers=workers)
    return work_here(tasks, model, identity)


def _begin(output: Path, parts: Sequence[Part], model: Mapping[str, Any]) -> str:
    """Open the folder of a run: a new one, or one of the same settings; return the model."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    now = {
        "model": identify(model),
        "precision": model.get("precision", "float32"),
        "parts": len(parts),
        "sources_sha256": digest.hexdigest(),
    }
    settings = output / RUN
    if settings.exists():
        try:
            before = read_json(settings)
        except ConfigError as error:
            raise UsageError(f"{error} Name another folder.") from None
        differ = sorted(key for key in now if before.get(key) != now[key])
        if differ:
            raise UsageError(
                f"{output} holds a run of other pictures or settings ({', '.join(differ)} differ); "
                "name another folder."
            )
        for left in output.glob(".*.parquet"):  # a kill while one was being written
            left.unlink()
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists and is no folder of embeddings; name another one.")
    else:
        storage.write(settings, (json.dumps(now, indent=2) + "\n").encode())
    return str(now["model"])


def _file(output: Path, number: int) -> Path:
    return output / f"part-{number:06d}.parquet"


def _damaged(said: str) -> DatasetError:
    return DatasetError(f"{said} Delete it and repeat the command.")


def _summed_up(output: Path, parts: int) -> tuple[int, int]:
    """Count embeddings and list failures, which each part's file holds with its rows."""
    embeddings = failures = 0
    listed = output / FAILED
    with storage.replacing(listed) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for number in range(parts):
            with open_parquet(str(_file(output, number)), _damaged) as file:
                embeddings += file.metadata.num_rows
                missing = json.loads((file.schema_arrow.metadata or {}).get(FAILURES, b""))
            failures += len(missing)
            for name, reason in missing:
                line = {"source": name, "reason": reason}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not failures:
        listed.unlink()
    return embeddings, failures
