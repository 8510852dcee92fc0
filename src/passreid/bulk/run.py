"""Embed any number of images into one folder, part by part: resumable, failures listed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from passreid import storage
from passreid.bulk.parts import Part, plan
from passreid.bulk.work import FAILURES, work_in_processes, work_on_ray
from passreid.config import read_json
from passreid.embed import load
from passreid.errors import ConfigError, DatasetError, UsageError
from passreid.gallery.base import Added, Entry
from passreid.gallery.engine import Gallery
from passreid.storage import open_parquet

PER_PART = 2048
"""Images in a part: the most that a kill costs, for each worker."""

# Readers of Parquet data sets skip names that start with an underscore.
RUN, FAILED = "_run.json", "_failures.jsonl"


class Bulk(NamedTuple):
    """Number of embeddings, failures and parts of a run, and of parts found from earlier."""

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
    """Embed images into a folder of Parquet files, or resume an earlier run into it.

    A part's file appears when the part is complete. After a kill, the same call does the missing
    parts; the number of workers may differ.

    Args:
        sources: As in `plan`.
        output: Folder for `part-….parquet`, `_failures.jsonl` and `_run.json`.
        model: Options of `passreid.load`.
        workers: Processes on this machine or on the Ray cluster.
        ray: Address of a Ray cluster; "local" starts one on this machine.
        per_part: Images in a part.
        column: Of Parquet sources, as in `plan`.
        progress: Called with the number of finished parts and of all parts.

    Raises:
        UsageError: Nothing to embed, the folder holds a run of other sources or another model, or
            is inside a source, where the next start would find it.
        DatasetError: A source or a part cannot be read; finished parts are kept.
        MissingExtraError: A package is not installed.
        OutputError: The folder cannot be written.
    """
    if workers < 1:
        raise UsageError(f"--workers is {workers}; it must be at least 1.")
    for source in sources:
        if Path(source).is_dir() and output.resolve().is_relative_to(Path(source).resolve()):
            raise UsageError(f"{output} is inside {source}, which is read; name another folder.")
    parts = plan(sources, per_part=per_part, column=column)
    identity = _begin(output, parts, model)
    files = [output / f"part-{number:06d}.parquet" for number in range(len(parts))]
    tasks = [(n, part) for n, part in enumerate(parts) if not files[n].exists()]
    found = done = len(parts) - len(tasks)
    progress(done, len(parts))
    if ray is None:
        results = work_in_processes(tasks, model, identity, workers=workers)
    else:
        results = work_on_ray(tasks, model, identity, workers=workers, address=ray)
    for number, data in results if tasks else ():
        storage.write(files[number], data)
        done += 1
        progress(done, len(parts))
    embeddings, failures = _list_failures(output / FAILED, files)
    return Bulk(embeddings, failures, len(parts), found)


def add_to_gallery(folder: Path, gallery: Gallery) -> Added:
    """Enrol a finished folder, a few thousand rows in memory at a time.

    Existing entries are not changed, so this may be repeated.

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


def _begin(output: Path, parts: Sequence[Part], model: Mapping[str, Any]) -> str:
    """Create the folder of a run, or check that it has the same settings; return the model."""
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
                f"{output} holds a run of other images or settings ({', '.join(differ)} differ); "
                "name another folder."
            )
        for left in output.glob(".*.parquet"):  # of a kill during writing
            left.unlink()
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists and is not a folder of embeddings; name another one.")
    else:
        storage.write(settings, (json.dumps(now, indent=2) + "\n").encode())
    return str(now["model"])


def _damaged(problem: str) -> DatasetError:
    return DatasetError(f"{problem} Delete it and repeat the command.")


def _list_failures(listed: Path, files: Sequence[Path]) -> tuple[int, int]:
    """Count embeddings, and list the failures that each part's file holds."""
    embeddings = failures = 0
    with storage.replacing(listed) as temporary, temporary.open("w", encoding="utf-8") as lines:
        for path in files:
            with open_parquet(str(path), _damaged) as file:
                embeddings += file.metadata.num_rows
                failed = json.loads((file.schema_arrow.metadata or {}).get(FAILURES, b""))
            failures += len(failed)
            for name, reason in failed:
                line = {"source": name, "reason": reason}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not failures:
        listed.unlink()
    return embeddings, failures
