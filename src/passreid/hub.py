"""A model's name -> files on this machine: bundled, a path, ModelScope or Hugging Face.

    passreid-small                      bundled with the package
    ./runs/a/model, model.pth           a folder or file
    damo/…, iic/…, modelscope:own/name  ModelScope, over plain HTTPS
    hf:owner/name, owner/name           Hugging Face (extra "hub")
    owner/name/folder/file.pth          one weight file of a Hugging Face repository
    …@v1.0                              a branch, tag or commit of either hub

Only weights and their description are fetched, never code; nothing fetched is run. What is in the
cache is complete, and using it needs no network.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from passreid.config import suggest
from passreid.errors import MissingExtraError, ModelNotFoundError

MODELS = Path(__file__).parent / "models"
MODELSCOPE_URL = "https://modelscope.cn"
MODELSCOPE_OWNERS = ("damo", "iic")
HUGGING_FACE_FILES = ("*.safetensors", "*.json", "model.onnx", "attention.onnx")
HUGGING_FACE_CONFIGS = ("config.json", "preprocessor_config.json")
HUGGING_FACE_PICKLES = ("*.pth", "*.pt", "*.bin", "*.json")
# What trainers leave beside the weights.
HUGGING_FACE_IDLE = ("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*")
IN_FOLDERS = "*/*"  # other models, each in a folder of the repository: fetched when named

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(rf"({_ID.pattern})/([\w./-]+\.(?:safetensors|pth|pt|bin))")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")
_DESCRIPTIONS = ("model.json", "configuration.json")
_PREFERRED = ("model.safetensors", "pytorch_model.pt")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_MAX_REDIRECTS = 5
_MAX_LISTING = 8 << 20
_YES = ("1", "true", "yes", "on")


def bundled() -> list[str]:
    """List the models that came with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/model.json"))


def resolve(
    name: str | Path,
    *,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    modelscope_url: str | None = None,
    also: Sequence[str] = (),
) -> Path:
    """Find a model, fetching it once if it lives on a hub.

    Args:
        name: As at the head of this module. A bundled name comes before a folder of that name.
        offline: Never use the network; None asks `PASSREID_OFFLINE` and `HF_HUB_OFFLINE`.
        cache_dir: Where fetched models are kept; None asks `PASSREID_CACHE`, then the user's
            cache folder (Hugging Face models then share Hugging Face's own).
        modelscope_url: Another ModelScope; None asks `PASSREID_MODELSCOPE_URL`.
        also: Files to fetch from Hugging Face besides weights, card and graphs, where it has them.

    Returns:
        A folder or a weight file.

    Raises:
        ModelNotFoundError: No such name, or it cannot be fetched; the message says what to do.
        MissingExtraError: A Hugging Face name without `huggingface_hub`.
    """
    if str(name) in bundled():
        return MODELS / name
    path = Path(name)
    with suppress(RuntimeError):  # "~" is nobody's home
        path = path.expanduser()
    if path.exists():
        if path.is_dir() and not any(file.suffix in _WEIGHTS for file in path.iterdir()):
            raise ModelNotFoundError(f"'{name}': a folder without a weight file is no model.")
        return path
    if isinstance(name, Path):
        raise ModelNotFoundError(f"'{name}': no such file or folder.")
    hub, model_id, file, revision = _parse(name)
    if offline is None:
        flags = (os.environ.get(key, "") for key in ("PASSREID_OFFLINE", "HF_HUB_OFFLINE"))
        offline = any(flag.lower() in _YES for flag in flags)
    cache = cache_dir or os.environ.get("PASSREID_CACHE") or None
    if hub == "hf":
        options = {
            "revision": revision,
            "local_files_only": offline,
            "cache_dir": Path(cache) / "huggingface" if cache else None,
        }
        return _hugging_face(model_id, file, also, options)
    url = modelscope_url or os.environ.get("PASSREID_MODELSCOPE_URL") or MODELSCOPE_URL
    root = Path(cache) if cache else cache_folder()
    return _ModelScope(url.rstrip("/"), model_id, revision or "master").fetch(root, offline)


def cache_folder() -> Path:
    """Return the folder that fetched models are kept in when none is named."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "passreid"


def _parse(name: str) -> tuple[str, str, str, str | None]:
    """Split a name that is no path into hub, id, file of the repository ("" for none), revision."""
    hub, colon, rest = name.partition(":")
    if not colon or hub not in ("hf", "modelscope"):
        hub, rest = "", name
    model_id, at, revision = rest.partition("@")
    file = ""
    if hub != "modelscope" and (match := _FILE.fullmatch(model_id)):
        model_id, file = match.groups()
    if ".." in rest or not _ID.fullmatch(model_id) or (at and not _REVISION.fullmatch(revision)):
        if hub:
            also = ", hf:owner/name/folder/file.pth" if hub == "hf" else ""
            raise ModelNotFoundError(
                f"'{name}': expected {hub}:owner/name{also} or {hub}:owner/name@tag."
            )
        if "/" in name or "\\" in name or name.endswith(_WEIGHTS):
            raise ModelNotFoundError(f"'{name}': no such file or folder.")
        known = bundled()
        hint = suggest(name, known) if known else ""
        raise ModelNotFoundError(f"'{name}': no bundled model and no file of that name.{hint}")
    if not hub:
        hub = "modelscope" if model_id.split("/")[0] in MODELSCOPE_OWNERS and not file else "hf"
    return hub, model_id, file, revision or None


def _hugging_face(
    model_id: str, file: str, also: Sequence[str], options: Mapping[str, Any]
) -> Path:
    """Fetch one file and its description, or the model at the top of a repository.

    Pickles come only where there is no safetensors file: many repositories have both.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        feature = f"'{model_id}': no local path; looking for it on Hugging Face"
        raise MissingExtraError(feature, "hub") from None
    if file:
        beside = [str(PurePosixPath(file).parent / name) for name in HUGGING_FACE_CONFIGS]
        attempts: list[tuple[list[str], list[str]]] = [([file, *beside], [])]
    else:
        attempts = [
            ([*HUGGING_FACE_FILES, *also], [IN_FOLDERS]),
            ([*HUGGING_FACE_PICKLES], [*HUGGING_FACE_IDLE, IN_FOLDERS]),
        ]
    try:
        for wanted, left in attempts:
            folder = Path(
                snapshot_download(model_id, allow_patterns=wanted, ignore_patterns=left, **options)
            )
            if file and (folder / file).is_file():
                return folder / file
            if not file and any(path.suffix in _WEIGHTS for path in folder.glob("*.*")):
                return folder
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelNotFoundError(
            f"'{model_id}': no local path, and Hugging Face does not give it ({reason}). Check the "
            f"name, or download its files by hand from https://huggingface.co/{model_id} and pass "
            "the folder."
        ) from None
    lacking = file or "weight file at its top"
    raise ModelNotFoundError(
        f"'{model_id}' has no {lacking} on Hugging Face. Name one of the files listed at "
        f"https://huggingface.co/{model_id}/tree/main, as {model_id}/folder/file.pth."
    )


@dataclass(frozen=True)
class _File:
    """One file of a listing; `sha256` is "" where the hub does not say."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class _ModelScope:
    """One model at one revision of a ModelScope server."""

    url: str
    model_id: str
    revision: str

    def fetch(self, root: Path, offline: bool) -> Path:
        """Return the model's folder in the cache, filling it first if need be.

        A folder gets its final name when all its files are checked, so what bears the name is
        complete, and of two processes that fetch at once one wins and neither harms the other.
        """
        owner, name = self.model_id.split("/")
        target = root / "modelscope" / owner / f"{name}@{self.revision}"
        if target.is_dir():
            return target
        if offline:
            self._refuse("is not in the cache, and offline mode is on")
        server = httpx.URL(self.url)
        if server.scheme != "https" and server.host not in ("127.0.0.1", "::1", "localhost"):
            self._refuse(f"would be fetched without encryption from {self.url}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                httpx.Client(timeout=_TIMEOUT, headers={"User-Agent": "passreid"}) as client,
                tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch,
            ):
                folder = Path(scratch) / "model"
                folder.mkdir()
                self._fill(folder, client)
                _claim(folder, target)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            self._refuse(f"cannot be fetched from {self.url} ({reason})")
        except OSError as error:
            raise ModelNotFoundError(
                f"'{self.model_id}': cannot be kept in {root} ({error.strerror or error}); set "
                "PASSREID_CACHE to a folder with room."
            ) from None
        return target

    def _fill(self, folder: Path, client: httpx.Client) -> None:
        files = self._choose(self._list(client))
        with _progress() as progress:
            for file in files:
                task = progress.add_task(file.path, total=file.size)
                query = {"Revision": self.revision, "FilePath": file.path}
                with self._open(client, "/repo", query) as response:
                    digest, size = hashlib.sha256(), 0
                    with (folder / file.path).open("wb") as stream:
                        for block in response.iter_bytes(1 << 20):
                            size += len(block)
                            if size > file.size:
                                break
                            digest.update(block)
                            stream.write(block)
                            progress.update(task, completed=size)
                if size != file.size:
                    more = "more" if size > file.size else "fewer"
                    self._refuse(f"gave {more} bytes of {file.path} than the {file.size} listed")
                if file.sha256 and digest.hexdigest() != file.sha256:
                    self._refuse(f"gave a {file.path} whose SHA-256 is not the listed one")

    def _list(self, client: httpx.Client) -> list[_File]:
        query = {"Revision": self.revision, "Recursive": "True"}
        with self._open(client, "/repo/files", query) as response:
            body = b""
            for block in response.iter_bytes():
                body += block
                if len(body) > _MAX_LISTING:
                    self._refuse("has a file list too long to be one")
        try:
            entries = httpx.Response(200, content=body).json()["Data"]["Files"]
            blobs = [entry for entry in entries if entry.get("Type") != "tree"]
            return [_file(entry) for entry in blobs]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self._refuse("has a file list that cannot be read")

    def _choose(self, files: Sequence[_File]) -> list[_File]:
        """Keep the description and the weights at the top of the model; refuse strange names."""
        for file in files:
            parts = file.path.split("/")
            if ".." in parts or "" in parts or "\\" in file.path or ":" in file.path:
                self._refuse(f"lists a file outside its folder ({file.path!r})")
        top = {file.path: file for file in files if "/" not in file.path}
        weights = [top[name] for name in _PREFERRED if name in top][:1]
        weights = weights or [top[name] for name in sorted(top) if name.endswith(_WEIGHTS)]
        if not weights:
            self._refuse("has no weight file")
        return [top[name] for name in _DESCRIPTIONS if name in top] + weights

    @contextmanager
    def _open(
        self, client: httpx.Client, route: str, query: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        """Open a GET; only redirects to HTTPS are followed."""
        url = httpx.URL(f"{self.url}/api/v1/models/{self.model_id}{route}", params=query)
        for _ in range(_MAX_REDIRECTS):
            with client.stream("GET", url) as response:
                if not response.is_redirect:
                    if response.status_code == httpx.codes.NOT_FOUND:
                        self._refuse(f"does not exist on {self.url} at '{self.revision}'")
                    response.raise_for_status()
                    yield response
                    return
                url = response.url.join(response.headers.get("location", ""))
                if url.scheme != "https":
                    self._refuse(f"is redirected to an address without encryption ({url.host})")
        self._refuse("is redirected without end")

    def _refuse(self, reason: str) -> NoReturn:
        page = f"{MODELSCOPE_URL}/models/{self.model_id}/files"
        raise ModelNotFoundError(
            f"'{self.model_id}' {reason}. Download configuration.json and pytorch_model.pt by hand "
            f"from {page} into a folder, and pass that folder."
        )


def _file(entry: Mapping[str, Any]) -> _File:
    path, size, digest = entry["Path"], entry["Size"], entry.get("Sha256") or ""
    if not isinstance(path, str) or type(size) is not int or not isinstance(digest, str):
        raise TypeError(path)
    return _File(path, size, digest.lower())


def _claim(folder: Path, target: Path) -> None:
    try:
        folder.replace(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same files
            raise


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
