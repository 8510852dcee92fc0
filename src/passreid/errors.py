"""The exceptions that passreid raises on purpose.

    PassreidError                 caught by the command line: message on stderr, `exit_code`
    ├── UsageError                the call itself is wrong (exit code 2)
    │   └── ConfigError           a configuration has an unknown key or an invalid value
    ├── ImageError                an image cannot be read; `.source` names it
    ├── DatasetError              a data set's layout, lists or labels cannot be used
    ├── EmbeddingError            embeddings cannot be compared (shape, NaN, other model)
    ├── ModelNotFoundError        a model name leads to no folder or file
    ├── CheckpointError           a weight file does not fit or is not safe to read
    ├── CalibrationError          a probability was requested of an uncalibrated model
    ├── GalleryError              a gallery cannot be opened, is of another model, or is locked
    ├── OutputError               a file cannot be written (permissions, full disk)
    ├── MissingExtraError         an optional dependency is not installed
    ├── TrainingError             a run cannot start, resume or continue
    └── VideoError                a video, detector or file of boxes cannot be used

Each message says in one sentence what is wrong and, where possible, in a second one what to do.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path


def install_command(extra: str) -> str:
    """Return the command that installs an extra from where passreid itself came from.

    passreid is not on PyPI: pip remembers the folder or Git address it was installed from
    (PEP 610), and sources that were never installed are a checkout.
    """
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file():
        return f"pip install '{_shown(checkout)}[{extra}]'"
    try:
        recorded = importlib.metadata.distribution("passreid").read_text("direct_url.json")
        origin = json.loads(recorded or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = origin.get("url", "")
    if "vcs_info" in origin:
        return f"pip install 'passreid[{extra}] @ {origin['vcs_info']['vcs']}+{url}'"
    if url.startswith("file://") and "archive_info" not in origin:
        return f"pip install '{url.removeprefix('file://')}[{extra}]'"
    return f"in the folder of passreid's sources, pip install '.[{extra}]'"


def _shown(folder: Path) -> str:
    """Name a folder as briefly as it can be typed here."""
    return "." if folder == Path.cwd() else str(folder)


class PassreidError(Exception):
    """Base of all errors caused by the input or the environment, not by a bug.

    Attributes:
        exit_code: Exit code of the command line.
        alone: Whether only this process of a distributed run knows of the error.
    """

    exit_code = 1
    alone = False


class UsageError(PassreidError):
    """The call itself is wrong: an option, a combination of options, a recipe."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration has an unknown key or an invalid value."""


class ImageError(PassreidError):
    """An image cannot be read.

    Args:
        source: The input's name for the user (a path, a URL, ``"<bytes>"``, an index).
        reason: What is wrong with it; the message joins the two.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = source, reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Pickle the two arguments, as `args` holds only the message."""
        return type(self), (self.source, self.reason)


class DatasetError(PassreidError):
    """A data set's layout, lists or labels cannot be used."""


class EmbeddingError(PassreidError):
    """Embeddings cannot be compared: wrong shape, not finite, or of another model."""


class ModelNotFoundError(PassreidError):
    """A model name leads to nothing that can be loaded."""


class CheckpointError(PassreidError):
    """A weight file does not fit its architecture, or is not safe to read."""


class CalibrationError(PassreidError):
    """A probability or verdict was requested of a model without a calibration."""


class GalleryError(PassreidError):
    """A gallery cannot be opened or used: missing, damaged, in use, or of another model."""


class OutputError(PassreidError):
    """A file cannot be written; any previous file is intact."""


class MissingExtraError(PassreidError):
    """An optional dependency is not installed.

    Args:
        feature: What the user asked for, as the subject of a sentence ("Reading .pth files").
        extra: The extra of passreid that provides it ("torch").
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional part: {install_command(extra)}")
        self.feature, self.extra = feature, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Pickle the two arguments, as `args` holds only the message."""
        return type(self), (self.feature, self.extra)


class TrainingError(PassreidError):
    """A training run cannot start, resume or continue."""


class VideoError(PassreidError):
    """A video, a stream, a detector or a file of boxes cannot be used."""
