"""Embed a part into the bytes of a Parquet file: in this process, in several, or on Ray."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from passreid.bulk.sources import Part, read_part
from passreid.embed import Embedder, load
from passreid.errors import DatasetError, ImageError, MissingExtraError, PassreidError
from passreid.images import describe
from passreid.listing import printable

FAILURES = b"passreid.failures"
"""Key in a part file's metadata: what the part could not embed, as JSON pairs of name, reason."""

Numbered: TypeAlias = tuple[int, Part]
Finished: TypeAlias = tuple[int, bytes]

_embedder: Embedder | None = None  # of a worker process, which serves one run


def embed_part(embedder: Embedder, part: Part, model: str) -> bytes:
    """Embed the readable pictures of a part.

    Args:
        embedder, part: The model, and the pictures.
        model: Identity of the model, kept in each row.

    Returns:
        A Parquet file with source, content_hash (SHA-256 in hex), embedding (D float32) and model
        of each picture; its metadata lists the unreadable ones under `FAILURES`.

    Raises:
        DatasetError: Storage fails in the middle of a shard.
        EmbeddingError: The network gives NaN or infinity.
        MissingExtraError: pyarrow is not installed.
    """
    names: list[str] = []
    hashes: list[str] = []
    failures: list[tuple[str, str]] = []

    def fed() -> Iterator[bytes]:
        for name, data in read_part(part):
            if isinstance(data, ImageError):
                failures.append((printable(data.source), data.reason))
                continue
            names.append(name)
            hashes.append(hashlib.sha256(data).hexdigest())
            yield data

    batches = list(embedder.stream(fed(), on_error="skip"))
    rows = np.concatenate(
        [np.empty((0, embedder.dim), np.float32), *[batch.embeddings for batch in batches]]
    )
    kept = [int(index) for batch in batches for index in batch.indices]
    # Skipped pictures have no row; both lists keep the order of the input.
    without = sorted(set(range(len(names))) - set(kept))
    reasons = [skipped.reason for batch in batches for skipped in batch.skipped]
    failures += [(_shown(names[i]), why) for i, why in zip(without, reasons, strict=True)]
    return _as_parquet([names[i] for i in kept], [hashes[i] for i in kept], rows, model, failures)


def _shown(name: str) -> str:
    """Return a name for people: one line, and a web address without its secrets."""
    return describe(name) if name.startswith("https://") else printable(name)


def _as_parquet(
    sources: list[str],
    hashes: list[str],
    rows: np.ndarray,
    model: str,
    failures: list[tuple[str, str]],
) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise MissingExtraError("Writing Parquet", "bulk") from error
    # Bytes of a name that are not UTF-8 become \udcXX, as in messages.
    sources = [name.encode(errors="backslashreplace").decode() for name in sources]
    dim = rows.shape[1]
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1), pa.float32()), dim)
    columns = {
        "source": pa.array(sources, pa.string()),
        "content_hash": pa.array(hashes, pa.string()),
        "embedding": embeddings,
        "model": pa.array([model] * len(sources), pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({FAILURES: json.dumps(failures).encode()})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def work_here(
    tasks: Iterable[Numbered], options: Mapping[str, Any], model: str
) -> Iterator[Finished]:
    """Embed parts in this process, in order."""
    embedder = load(**options)
    for number, part in tasks:
        yield number, embed_part(embedder, part, model)


def work_in_processes(
    tasks: Iterable[Numbered], options: Mapping[str, Any], model: str, *, workers: int
) -> Iterator[Finished]:
    """Embed parts in processes of this machine; yield them as they are finished.

    Raises:
        DatasetError: A worker was killed.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Spawned, not forked: a fork of a process with threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        remaining = iter(tasks)
        running: set[Future[Finished]] = set()
        try:
            while True:
                # Never more than two parts a worker are under way: memory stays bounded.
                for task in islice(remaining, 2 * workers - len(running)):
                    running.add(pool.submit(_work, task, {"threads": threads, **options}, model))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise DatasetError(
                "A worker process was killed, perhaps for lack of memory; the same command goes on "
                "from what is done, with fewer --workers if it was memory."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _work(task: Numbered, options: Mapping[str, Any], model: str) -> Finished:
    global _embedder
    if _embedder is None:  # not in the pool's initializer, whose errors look like a kill
        _embedder = load(**options)
    number, part = task
    return number, embed_part(_embedder, part, model)


def work_on_ray(
    tasks: Iterable[Numbered],
    options: Mapping[str, Any],
    model: str,
    *,
    workers: int,
    address: str,
) -> Iterator[Finished]:
    """Embed parts in Ray Data actors, in any order; a part whose actor dies is done by another.

    Args:
        tasks, options, model: As elsewhere here.
        workers: Actors.
        address: Of a cluster ("auto", "ray://host:10001"), or "local" for one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        PassreidError: Ray fails.
    """
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("Embedding on a Ray cluster", "ray") from error
    numbered = [{"number": number, "part": _packed(part)} for number, part in tasks]
    if not numbered:
        return
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items(numbered, override_num_blocks=len(numbered))
    done = data.map(
        RayWorker,  # type: ignore[arg-type]  # Ray's hint knows functions only
        fn_constructor_args=(dict(options), model),
        concurrency=workers,
        num_cpus=1,
    )
    try:
        for row in done.iter_rows():
            yield int(row["number"]), bytes(row["file"])
    except ray.exceptions.RayError as error:
        raise PassreidError(
            f"Ray could not finish: {str(error).strip().splitlines()[-1]}"
        ) from error


class RayWorker:
    """An actor: loads the model once, embeds parts."""

    def __init__(self, options: Mapping[str, Any], model: str) -> None:
        self.embedder, self.model = load(**options), model

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the number and the Parquet file of the part in a row."""
        part = _unpacked(row["part"])
        return {"number": row["number"], "file": embed_part(self.embedder, part, self.model)}


def _packed(part: Part) -> str:
    return json.dumps([part.kind, part.places, part.row_group, part.column])


def _unpacked(text: str) -> Part:
    kind, places, row_group, column = json.loads(text)
    return Part(kind, tuple(places), row_group, column)
