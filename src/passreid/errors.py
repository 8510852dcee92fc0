"""Every exception passreid raises on purpose.

    PassreidError                 caught by the command line: message on stderr, `exit_code`
    ├── UsageError                the call itself is wrong (exit code 2)
    │   └── ConfigError           an unknown key or a value outside its range in a recipe
    ├── ImageError                one picture cannot be read; `.source` names it
    ├── DatasetError              a data set's layout, lists or labels cannot be used
    ├── EmbeddingError            embeddings that cannot be compared (shape, NaN, other model)
    ├── ModelNotFoundError        a model name leads to nothing: no folder, no file, no network
    ├── CheckpointError           a weight file that does not fit or is not safe to read
    ├── CalibrationError          a probability is asked of a model that was never calibrated
    ├── GalleryError              a gallery that cannot be opened, of another model, or locked
    ├── OutputError               a file that cannot be written (rights, full disk)
    ├── MissingExtraError         an optional dependency is not installed
    ├── TrainingError             a run that cannot start, resume or go on
    └── VideoError                a video, detector or file of boxes that cannot be used

Each message is one sentence on what is wrong and, where there is one, a second on what to do next.
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
    """Base of every error that is the input's or the environment's fault, not a bug.

    Attributes:
        exit_code: Of the command line.
        alone: Whether of several processes of a run only this one can tell.
    """

    exit_code = 1
    alone = False


class UsageError(PassreidError):
    """The call itself is wrong: an option, a combination of options, a recipe."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe holds an unknown key or a value outside its range."""


class ImageError(PassreidError):
    """One picture cannot be read.

    Args:
        source: How the input is named to the user (a path, a URL, ``"<bytes>"``, an index).
        reason: What is wrong with it, without the name; the message joins the two.
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Survive pickling between worker processes (the two arguments differ from ``args``)."""
        return type(self), (self.source, self.reason)


class DatasetError(PassreidError):
    """A data set's layout, lists or labels cannot be used."""


class EmbeddingError(PassreidError):
    """Embeddings that cannot be compared: wrong shape, not finite, or of another model."""


class ModelNotFoundError(PassreidError):
    """A model name leads to nothing that can be loaded."""


class CheckpointError(PassreidError):
    """A weight file does not fit its architecture, or is not safe to read."""


class CalibrationError(PassreidError):
    """A probability or verdict is asked of a model that was never calibrated."""


class GalleryError(PassreidError):
    """A gallery cannot be opened or used: missing, damaged, in use, or of another model."""


class OutputError(PassreidError):
    """A file cannot be written; what was there before still is."""


class MissingExtraError(PassreidError):
    """An optional dependency is not installed.

    Args:
        feature: What the user asked for, as the subject of a sentence ("Reading .pth files").
        extra: The extra of passreid that brings it ("torch").
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional part: {install_command(extra)}")
        self.feature, self.extra = feature, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Survive pickling between worker processes (the two arguments differ from ``args``)."""
        return type(self), (self.feature, self.extra)


class TrainingError(PassreidError):
    """A training run that cannot start, resume or go on."""


class VideoError(PassreidError):
    """A video, a stream, a detector or a file of boxes cannot be used."""
