"""Resolve a model's name to files on this machine: bundled, a path, ModelScope or Hugging Face.

    passreid-small                      bundled with the package
    ./runs/a/model, model.pth           a folder or file
    damo/…, iic/…, modelscope:own/name  ModelScope, over plain HTTPS
    hf:owner/name, owner/name           Hugging Face (extra "hub")
    owner/name/folder/file.pth          one weight file of a Hugging Face repository
    …@v1.0                              a branch, tag or commit of either hub

Only weights and their description are downloaded, never code. Everything in the cache is complete,
and using it needs no network. `PASSREID_CACHE` names another folder for downloads (the default is
the user's cache folder, and Hugging Face's own), `PASSREID_MODELSCOPE_URL` another ModelScope.
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
from typing import Any, NamedTuple, NoReturn

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from passreid.config import suggest
from passreid.errors import MissingExtraError, ModelNotFoundError

MODELS = Path(__file__).parent / "models"
_MODELSCOPE_URL = "https://modelscope.cn"
_MODELSCOPE_OWNERS = ("damo", "iic")
_PREFERRED = ("model.safetensors", "pytorch_model.pt")
_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(rf"({_ID.pattern})/([\w./-]+\.(?:safetensors|pth|pt|bin))")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")
_MAX_LISTING = 8 << 20


def bundled() -> list[str]:
    """List the models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/model.json"))


def resolve(
    name: str | Path,
    *,
    offline: bool | None = None,
    also: Sequence[str] = (),
) -> Path:
    """Return the folder or weight file of a model, downloading it once if it lives on a hub.

    Args:
        name: See the module; a bundled name takes precedence over a folder.
        offline: Never use the network; None reads `PASSREID_OFFLINE` and `HF_HUB_OFFLINE`.
        also: Other files to download from Hugging Face, where they exist.

    Raises:
        ModelNotFoundError: No such name, or it cannot be downloaded; the message says what to do.
        MissingExtraError: A Hugging Face name without `huggingface_hub`.
    """
    if str(name) in bundled():
        return MODELS / name
    path = Path(name)
    with suppress(RuntimeError):  # "~" of an unknown user
        path = path.expanduser()
    if path.exists():
        if path.is_dir() and not any(
            file.suffix in (*_WEIGHTS, ".onnx", ".xml") for file in path.iterdir()
        ):
            raise ModelNotFoundError(f"'{name}': the folder holds no weight file.")
        return path
    if isinstance(name, Path):
        raise ModelNotFoundError(f"'{name}': no such file or folder.")
    hub, model_id, file, revision = _parse(name)
    if offline is None:
        flags = (os.environ.get(key, "") for key in ("PASSREID_OFFLINE", "HF_HUB_OFFLINE"))
        offline = any(flag.lower() in ("1", "true", "yes", "on") for flag in flags)
    cache = os.environ.get("PASSREID_CACHE")
    if hub == "hf":
        options = {
            "revision": revision,
            "local_files_only": offline,
            "cache_dir": Path(cache) / "huggingface" if cache else None,
        }
        return _hugging_face(model_id, file, also, options)
    url = os.environ.get("PASSREID_MODELSCOPE_URL") or _MODELSCOPE_URL
    root = Path(cache) if cache else cache_folder()
    return _ModelScope(url.rstrip("/"), model_id, revision or "master").fetch(root, offline)


def cache_folder() -> Path:
    """Return the default folder for downloads."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "passreid"


def _parse(name: str) -> tuple[str, str, str, str | None]:
    """Split a name into hub, id, file within the repository ("" for none) and revision."""
    hub, colon, rest = name.partition(":")
    if not colon or hub not in ("hf", "modelscope"):
        hub, rest = "", name
    model_id, at, revision = rest.partition("@")
    file = ""
    if hub != "modelscope" and (match := _FILE.fullmatch(model_id)):
        model_id, file = match.groups()
    if ".." in rest or not _ID.fullmatch(model_id) or (at and not _REVISION.fullmatch(revision)):
        if hub:
            one_file = ", hf:owner/name/folder/file.pth" if hub == "hf" else ""
            raise ModelNotFoundError(
                f"'{name}': expected {hub}:owner/name{one_file} or {hub}:owner/name@tag."
            )
        if "/" in name or "\\" in name or name.endswith(_WEIGHTS):
            raise ModelNotFoundError(f"'{name}': no such file or folder.")
        known = bundled()
        hint = suggest(name, known) if known else ""
        raise ModelNotFoundError(f"'{name}': no bundled model and no file of that name.{hint}")
    if not hub:
        hub = "modelscope" if model_id.split("/")[0] in _MODELSCOPE_OWNERS and not file else "hf"
    return hub, model_id, file, revision or None


def _hugging_face(
    model_id: str, file: str, also: Sequence[str], options: Mapping[str, Any]
) -> Path:
    """Download one file and its description, or the model at the top of a repository."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        feature = f"'{model_id}': no local path; looking for it on Hugging Face"
        raise MissingExtraError(feature, "hub") from None
    if file:
        folder_of = PurePosixPath(file).parent
        configs = [str(folder_of / name) for name in ("config.json", "preprocessor_config.json")]
        attempts: list[tuple[list[str], list[str]]] = [([file, *configs], [])]
    else:
        # Pickles only where there is no safetensors file, and without what trainers leave beside
        # them. Models in subfolders ("*/*") are downloaded only when named.
        states = ["training_args.bin", "optimizer.*", "scheduler.*", "rng_state*"]
        safe = ["*.safetensors", "*.json", "model.onnx", "attention.onnx", *also]
        attempts = [(safe, ["*/*"]), (["*.pth", "*.pt", "*.bin", "*.json"], [*states, "*/*"])]
    try:
        for wanted, left_out in attempts:
            folder = Path(
                snapshot_download(
                    model_id, allow_patterns=wanted, ignore_patterns=left_out, **options
                )
            )
            if file and (folder / file).is_file():
                return folder / file
            if not file and any(path.suffix in _WEIGHTS for path in folder.glob("*.*")):
                return folder
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelNotFoundError(
            f"'{model_id}': no local path, and Hugging Face does not provide it ({reason}). Check "
            "the name, or download its files by hand from "
            f"https://huggingface.co/{model_id} and pass the folder."
        ) from None
    lacking = file or "weight file at its top level"
    raise ModelNotFoundError(
        f"'{model_id}' has no {lacking} on Hugging Face. Name one of the files listed at "
        f"https://huggingface.co/{model_id}/tree/main, as {model_id}/folder/file.pth."
    )


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


class _File(NamedTuple):
    """One file of a listing; `sha256` is "" when the hub does not give it."""

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
        """Return the model's folder in the cache, downloading it if it is not there.

        The folder gets its name after all files are verified. Of two processes that download at
        once, one wins.
        """
        target = root / "modelscope" / f"{self.model_id}@{self.revision}"
        if target.is_dir():
            return target
        if offline:
            self._refuse("is not in the cache, and offline mode is on")
        server = httpx.URL(self.url)

        def check(request: httpx.Request) -> None:
            is_local = request.url.host == server.host in ("127.0.0.1", "::1", "localhost")
            if request.url.scheme != "https" and not is_local:
                self._refuse(f"would be downloaded without encryption from {request.url.host}")

        client = httpx.Client(
            timeout=httpx.Timeout(60.0, connect=10.0),
            headers={"User-Agent": "passreid"},
            params={"Revision": self.revision},
            follow_redirects=True,
            max_redirects=5,
            event_hooks={"request": [check]},  # redirects, too
        )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with client, tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as scratch:
                folder = Path(scratch) / "model"
                folder.mkdir()
                self._download(folder, client)
                try:
                    folder.replace(target)
                except OSError:
                    if not target.is_dir():  # else another process was first, with the same files
                        raise
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            self._refuse(f"cannot be downloaded from {self.url} ({reason})")
        except OSError as error:
            raise ModelNotFoundError(
                f"'{self.model_id}': cannot be stored in {root} ({error.strerror or error}); set "
                "PASSREID_CACHE to a folder with space."
            ) from None
        return target

    def _download(self, folder: Path, client: httpx.Client) -> None:
        """Download the chosen files, each checked against its listed size and digest."""
        files = self._choose(self._list(client))
        with _progress() as progress:
            for file in files:
                task = progress.add_task(file.path, total=file.size)
                digest, size = hashlib.sha256(), 0
                with (
                    self._open(client, "/repo", {"FilePath": file.path}) as response,
                    (folder / file.path).open("wb") as stream,
                ):
                    for block in response.iter_bytes(1 << 20):
                        size += len(block)
                        if size > file.size:
                            break
                        digest.update(block)
                        stream.write(block)
                        progress.update(task, completed=size)
                if size != file.size:
                    more = "more" if size > file.size else "fewer"
                    self._refuse(f"sent {more} bytes of {file.path} than the {file.size} listed")
                if file.sha256 and digest.hexdigest() != file.sha256:
                    self._refuse(f"sent a {file.path} whose SHA-256 is not the listed one")

    def _list(self, client: httpx.Client) -> list[_File]:
        with self._open(client, "/repo/files", {"Recursive": "True"}) as response:
            body = b""
            for block in response.iter_bytes():
                body += block
                if len(body) > _MAX_LISTING:
                    self._refuse(f"has a file list of more than {_MAX_LISTING:,} bytes")
        try:
            entries = httpx.Response(200, content=body).json()["Data"]["Files"]
            files = [
                _File(entry["Path"], entry["Size"], (entry.get("Sha256") or "").lower())
                for entry in entries
                if entry.get("Type") != "tree"
            ]
            if not all(isinstance(file.path, str) and type(file.size) is int for file in files):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self._refuse("has a file list that cannot be read")
        return files

    def _choose(self, files: Sequence[_File]) -> list[_File]:
        """Return the description and the weights at the top level; refuse unsafe paths."""
        for file in files:
            parts = file.path.split("/")
            if ".." in parts or "" in parts or "\\" in file.path or ":" in file.path:
                self._refuse(f"lists a file outside its folder ({file.path!r})")
        top = {file.path: file for file in files if "/" not in file.path}
        weights = [name for name in sorted(top) if name.endswith(_WEIGHTS)]
        weights = [name for name in _PREFERRED if name in top][:1] or weights
        if not weights:
            self._refuse("has no weight file")
        described = [name for name in ("model.json", "configuration.json") if name in top]
        return [top[name] for name in described + weights]

    @contextmanager
    def _open(
        self, client: httpx.Client, route: str, query: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        url = f"{self.url}/api/v1/models/{self.model_id}{route}"
        with client.stream("GET", url, params=query) as response:
            if response.status_code == httpx.codes.NOT_FOUND:
                self._refuse(f"does not exist on {self.url} at '{self.revision}'")
            response.raise_for_status()
            yield response

    def _refuse(self, reason: str) -> NoReturn:
        page = f"{_MODELSCOPE_URL}/models/{self.model_id}/files"
        raise ModelNotFoundError(
            f"'{self.model_id}' {reason}. Download configuration.json and pytorch_model.pt by hand "
            f"from {page} into a folder, and pass that folder."
        )
