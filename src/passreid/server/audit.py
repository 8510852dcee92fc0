"""Log who enrolled, searched, changed and deleted: a JSON object per line, no image or vector."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from passreid.errors import OutputError


class AuditLog:
    """An append-only file that only its owner may read; with no path, nothing is logged.

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
        """Append a line, leaving out empty facts.

        Raises:
            OutputError: The disk is full; the request must then fail as well.
        """
        if self._file is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": now, "action": action, "client": client, "request": request}
        line |= {name: fact for name, fact in facts.items() if fact not in (None, [], {}, "")}
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        try:
            with self._lock:
                while data:  # a disk that fills up accepts a part first and fails then
                    data = data[os.write(self._file, data) :]
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written ({error.strerror}).") from None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
