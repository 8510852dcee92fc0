"""Render the OpenAPI schema as one HTML page without scripts, so that nothing leaves the host."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>passreid API</title>
<link rel="stylesheet" href="page/docs.css"><main><h1>passreid API</h1>
<p>The same as JSON for tools: <a href="openapi.json">openapi.json</a>. Failures are
<a href="#Problem">problems</a>. With a token, send <code>Authorization: Bearer TOKEN</code>.</p>"""


def render_docs(schema: dict[str, Any]) -> str:
    """Return the page: every route with its fields, then every object."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    objects = sorted(schema["components"]["schemas"].items())
    return "".join(
        [
            _HEAD,
            *_contents(operations),
            *(part for each in operations for part in _operation(*each)),
            "<h2>Objects</h2>",
            *(part for name, model in objects for part in _object(name, model)),
            "</main></html>",
        ]
    )


def _contents(operations: list[tuple[str, str, Any]]) -> Iterator[str]:
    yield "<ul>"
    for method, path, operation in operations:
        link = f'<a href="#{escape(operation["operationId"])}">'
        yield f"<li>{link}<code>{method} {escape(path)}</code></a> {escape(operation['summary'])}"
    yield "</ul>"


def _operation(method: str, path: str, operation: Any) -> Iterator[str]:
    yield f'<h2 id="{escape(operation["operationId"])}"><code>{method} {escape(path)}</code></h2>'
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    parameters = operation.get("parameters", [])
    if parameters:
        fields = {p["name"]: {**p["schema"], **p} for p in parameters}
        yield from _table(fields, [p["name"] for p in parameters if p.get("required")])
    body = operation.get("requestBody", {}).get("content", {})
    for kind, content in body.items():
        yield f"<p>Body: {escape(kind)}, {_type(content['schema'])}</p>"
    for status, answer in operation["responses"].items():
        if status == "200":
            for kind, content in answer.get("content", {}).items():
                yield f"<p>Answer: {escape(kind)} {_type(content.get('schema', {}))}</p>"


def _object(name: str, model: Any) -> Iterator[str]:
    name = escape(name)
    yield f'<h3 id="{name}">{name}</h3><p>{escape(model.get("description", ""))}</p>'
    yield from _table(model.get("properties", {}), model.get("required", []))


def _table(fields: dict[str, Any], required: list[str]) -> Iterator[str]:
    yield "<table><tr><th>Field<th>Type<th>Description"
    for name, field in fields.items():
        mark = " (required)" if name in required else ""
        if field.get("default") not in (None, [], {}):
            mark = f" (default {field['default']})"
        yield f"<tr><td><code>{escape(name)}</code><td>{_type(field)}"
        yield f"<td>{escape(field.get('description', '') + mark)}"
    yield "</table>"


def _type(field: Any) -> str:
    """Describe a type in HTML, linking objects."""
    if "$ref" in field:
        name = escape(field["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " or ".join(_type(each) for each in field[key])
    if "contentSchema" in field:
        return f"JSON: {_type(field['contentSchema'])}"
    if "enum" in field:
        return ", ".join(escape(str(value)) for value in field["enum"])
    if field.get("type") == "array":
        items: Any = field.get("items") or next(iter(field.get("prefixItems", [])), {})
        return f"list of {_type(items)}"
    if "contentMediaType" in field or field.get("format") == "binary":
        return "file"
    return escape(str(field.get("format") or field.get("const") or field.get("type", "any")))
