"""Enrol a folder and search it: python client.py http://127.0.0.1:8008 crops/ query.jpg"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

import httpx


def main(address: str, folder: str, query: str) -> None:
    """Print a line for each enrolled file, then what is most like the query."""
    token = os.environ.get("PASSREID_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    out = sys.stdout.write
    with httpx.Client(base_url=address, headers=headers, timeout=120) as client:
        crops = iter(sorted(Path(folder).glob("*.jpg")))
        while part := list(islice(crops, 32)):
            files = [("files", (path.name, path.read_bytes())) for path in part]
            answer = post(client, "/v1/entries", files=files)
            for line in map(json.loads, answer.text.splitlines()):
                out(f"{line['event']:8} {line.get('source', '')} {line.get('reason', '')}\n")
        image = {"images": Path(query).read_bytes()}
        answer = post(client, "/v1/search", files=image, data={"top_k": "5"})
        for hit in answer.json()["hits"]:
            out(f"{hit['rank']:3} {hit['cosine']:+.3f} {hit['probability']} {hit['source']}\n")


def post(client: httpx.Client, path: str, **request: object) -> httpx.Response:
    """Send, and come back later when the service is busy."""
    while True:
        answer = client.post(path, **request)  # type: ignore[arg-type]
        if answer.status_code != 429:
            break
        time.sleep(float(answer.headers["Retry-After"]))
    if answer.is_error:
        sys.exit(answer.json()["detail"])
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:4])
