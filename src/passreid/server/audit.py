"""Who enrolled, searched, changed and forgot, a JSON object a line; never a picture or a vector."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from passreid.errors import OutputError


class Audit:
    """An append-only file that only its owner may read.

    Args:
        path: The file; None keeps no record.

    Raises:
        OutputError: It cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error.strerror}).") from None

    def write(self, action: str, *, client: str, request: str, **facts: Any) -> None:
        """Add a line; it is on its way to the disk when this returns.

        Args:
            action: "enrol", "search", "update", "forget" or "retention".
            client: Address of who asked.
            request: The request's id, as in the reply's X-Request-ID.
            facts: What is worth knowing of it; None and empty ones are left out.

        Raises:
            OutputError: The disk is full; what cannot be recorded should not be answered.
        """
        if self._file is None:
            return
        line: Mapping[str, Any] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "action": action,
            "client": client,
            "request": request,
            **{name: fact for name, fact in facts.items() if fact not in (None, (), [], {}, "")},
        }
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            with self._lock:
                while data:  # a disk that fills up takes a part first and fails then
                    data = data[os.write(self._file, data) :]
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror}).") from None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
