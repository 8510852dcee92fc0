"""Embed a part into the bytes of a Parquet file: in this process, in several, or on Ray."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from passreid.bulk.parts import Part
from passreid.embed import Embedder, load
from passreid.errors import DatasetError, ImageError, MissingExtraError, PassreidError
from passreid.images import describe
from passreid.listing import printable

FAILURES = b"passreid.failures"
"""Key in a part file's metadata: names and reasons of images without embedding, as JSON."""

Task: TypeAlias = tuple[int, Part]
Result: TypeAlias = tuple[int, bytes]

_embedder: Embedder | None = None  # of a worker process, which serves one run


def embed_part(embedder: Embedder, part: Part, model: str) -> bytes:
    """Embed the readable images of a part.

    Returns:
        A Parquet file with source, content_hash (SHA-256 in hex), embedding (D float32) and model
        of each image; its metadata lists the unreadable ones under `FAILURES`.

    Raises:
        DatasetError: Storage fails in the middle of a shard.
        EmbeddingError: The network returns NaN or infinity.
        MissingExtraError: pyarrow is not installed.
    """
    names: list[str] = []
    hashes: list[str] = []
    failures: list[tuple[str, str]] = []

    def contents() -> Iterator[bytes]:
        for name, data in part.read():
            if isinstance(data, ImageError):
                failures.append((printable(data.source), data.reason))
                continue
            names.append(name)
            hashes.append(hashlib.sha256(data).hexdigest())
            yield data

    batches = list(embedder.stream(contents(), on_error="skip"))
    rows = np.concatenate(
        [np.empty((0, embedder.dim), np.float32), *[batch.embeddings for batch in batches]]
    )
    kept = [int(index) for batch in batches for index in batch.indices]
    # Skipped images have no row; both lists keep the order of the input.
    without = sorted(set(range(len(names))) - set(kept))
    reasons = [skipped.reason for batch in batches for skipped in batch.skipped]
    failures += [(describe(names[i]), why) for i, why in zip(without, reasons, strict=True)]
    return _write_parquet(
        [names[i] for i in kept], [hashes[i] for i in kept], rows, model, failures
    )


def _write_parquet(
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
    values = pa.array(rows.reshape(-1), pa.float32())
    columns = {
        "source": pa.array(sources, pa.string()),
        "content_hash": pa.array(hashes, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(values, rows.shape[1]),
        "model": pa.array([model] * len(sources), pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({FAILURES: json.dumps(failures).encode()})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def work_in_processes(
    tasks: Iterable[Task], options: Mapping[str, Any], model: str, *, workers: int
) -> Iterator[Result]:
    """Embed parts in processes of this machine; yield them as they are finished.

    Raises:
        DatasetError: A worker was killed.
    """
    if workers == 1:
        embedder = load(**options)
        yield from ((number, embed_part(embedder, part, model)) for number, part in tasks)
        return
    options = {"threads": max(1, (os.cpu_count() or 1) // workers), **options}
    # Spawned, not forked: forking a process with threads may hang.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        remaining = iter(tasks)
        running: set[Future[Result]] = set()
        try:
            while True:
                # At most two parts per worker are in flight, so memory stays bounded.
                for task in islice(remaining, 2 * workers - len(running)):
                    running.add(pool.submit(_work, task, options, model))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise DatasetError(
                "A worker process was killed, perhaps for lack of memory; repeat the command to "
                "continue, with fewer --workers if it was memory."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _work(task: Task, options: Mapping[str, Any], model: str) -> Result:
    global _embedder
    if _embedder is None:  # not in the pool's initializer, whose errors look like a kill
        _embedder = load(**options)
    number, part = task
    return number, embed_part(_embedder, part, model)


def work_on_ray(
    tasks: Iterable[Task], options: Mapping[str, Any], model: str, *, workers: int, address: str
) -> Iterator[Result]:
    """Embed parts by Ray Data, in any order; Ray repeats the part of a worker that dies.

    Args:
        tasks: Parts and their numbers.
        options: Of `passreid.load`.
        model: Identity of the model.
        workers: Processes on the cluster.
        address: Of a cluster ("auto", "ray://host:10001"), or "local" for one on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        PassreidError: Ray fails.
    """
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("Embedding on a Ray cluster", "ray") from error
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    items = [{"task": pickle.dumps(task)} for task in tasks]
    data = ray.data.from_items(items, override_num_blocks=len(items))
    results = data.map(
        RayWorker,  # type: ignore[arg-type]  # Ray's annotation knows functions only
        fn_constructor_args=(dict(options), model),
        concurrency=workers,
        num_cpus=1,
    )
    try:
        for row in results.iter_rows():
            yield int(row["number"]), bytes(row["file"])
    except ray.exceptions.RayError as error:
        raise PassreidError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from error


class RayWorker:
    """Load the model once for each of Ray's processes, and embed parts."""

    def __init__(self, options: Mapping[str, Any], model: str) -> None:
        self.embedder, self.model = load(**options), model

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the number of a part and its Parquet file."""
        number, part = pickle.loads(row["task"])  # noqa: S301 - written by `work_on_ray`
        return {"number": number, "file": embed_part(self.embedder, part, self.model)}
