"""Add what the site takes from the rest of the repository: generated references and root files."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSES.md", "LICENSE")


def on_files(files: Files, config: Any) -> Files:
    """Generate the references of the command line and of the HTTP API; add root files."""
    pages = {
        "reference/cli.md": command_line(),
        "reference/http.md": http_api(),
    }
    present = [ROOT / name for name in ROOT_FILES if (ROOT / name).is_file()]
    for path in [*present, *(ROOT / "recipes").glob("*.toml"), *(ROOT / "examples").glob("*")]:
        pages["project/" + path.relative_to(ROOT).as_posix()] = path.read_text()
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ at the copies of those files inside the site."""
    inside = PurePosixPath(page.file.src_uri)
    up = "../" * len(inside.parents)  # from the page's folder to the root of the repository
    home = "../" * (len(inside.parents) - 1)
    if inside.parts[0] == "project":  # a root file: its links are relative to the root
        markdown = re.sub(r"\]\(docs/", "](../", markdown)
    return re.sub(rf"\]\({re.escape(up)}(?=\w)", f"]({home}project/", markdown)


def command_line() -> str:
    """Describe every verb and option of the command line as Markdown."""
    from passreid.cli import run
    from passreid.cli.app import app

    with redirect_stdout(StringIO()):
        run(["--version"])  # registers the verbs
    return str(app.generate_docs(output_format="markdown"))


def http_api() -> str:
    """Describe the HTTP routes as Markdown, from the OpenAPI schema."""
    import passreid
    from passreid.server.app import create_app

    embedder = passreid.load()
    with TemporaryDirectory() as folder:
        gallery = passreid.open_gallery(
            Path(folder) / "people.gallery", model=embedder.identity, dim=embedder.dim, create=True
        )
        schema = create_app(embedder, gallery).openapi()
        gallery.close()
    lines = ["# HTTP API", "", schema["info"].get("description", ""), ""]
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            lines += [f"## `{method.upper()} {path}`", "", route.get("description", ""), ""]
            for field, kind in parameters(route, schema):
                lines.append(f"- `{field}`: {kind}")
            lines.append("")
    return "\n".join(lines)


def parameters(route: Any, schema: Any) -> list[tuple[str, str]]:
    """Return the path, query and form or JSON fields of a route with their descriptions."""
    fields = [(p["name"], p.get("description", p["in"])) for p in route.get("parameters", [])]
    for content in route.get("requestBody", {}).get("content", {}).values():
        body = content["schema"]
        if "$ref" in body:
            body = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
        for name, value in body.get("properties", {}).items():
            fields.append((name, value.get("description", value.get("type", "object"))))
    return fields
