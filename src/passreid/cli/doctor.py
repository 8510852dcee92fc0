"""doctor: check the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

from rich.markup import escape

from passreid.cli.app import app, say
from passreid.errors import PassreidError, install_command

# Extra -> modules that it must provide.
_EXTRAS = {
    "torch": ("torch", "timm", "torchvision"),
    "adapt": ("sklearn",),
    "onnx": ("onnx", "onnxscript"),
    "hub": ("huggingface_hub",),
    "openvino": ("openvino",),
    "int8": ("nncf",),
    "gallery": ("faiss",),
    "qdrant": ("qdrant_client",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
    "bulk": ("pyarrow", "fsspec"),
    "ray": ("ray",),
    "shards": ("fsspec",),
    "tensorboard": ("tensorboard",),
    "video": ("av", "trackers", "supervision"),
}


@app.command
def doctor() -> int:
    """Show what is installed and what the machine offers, and test the bundled model."""
    from passreid.backends import gpu, torch_runs

    say(f"passreid {importlib.metadata.version('passreid')} on Python {platform.python_version()}")
    say(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    for package in ("numpy", "pillow", "onnxruntime", "safetensors"):
        say(f"  {package} {_version(package)}")
    for extra, packages in _EXTRAS.items():
        missing = [p for p in packages if importlib.util.find_spec(p) is None]
        state = "installed" if not missing else f"not installed: {escape(install_command(extra))}"
        say(f"  extra {extra}: {state}")
    try:
        if torch_runs():
            say(f"  torch {_version('torch')}, accelerator: {gpu() or 'none'}")
        same, different = _self_test()
    except (PassreidError, ImportError, OSError) as error:  # also libraries that fail to load
        say(f"bundled model: fails ({escape(str(error))})")
        return 1
    say(f"bundled model: works (same person {same:.2f}, different people {different:.2f})")
    return 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # builds for other hardware have other names
        return "not installed under this name"


def _self_test() -> tuple[float, float]:
    """Embed drawn crops and return the cosines of a same-person and a different-people pair."""
    import numpy as np

    from passreid.data.drawing import draw_crop, random_camera, random_people
    from passreid.embed import load
    from passreid.verify import cosine

    rng = np.random.default_rng(0)
    people = random_people(3, rng)
    cameras = [random_camera(number, rng) for number in range(2)]
    shots = ((people[0], cameras[0]), (people[0], cameras[1]), (people[2], cameras[1]))
    one, again, other = load()([draw_crop(*shot, rng) for shot in shots])
    return float(cosine(one, again)), float(cosine(one, other))
