"""The page that lists the server's endpoints; FastAPI's own would load scripts from elsewhere."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}: interface</title>
<link rel="stylesheet" href="/page/style.css"><link rel="icon" href="/page/icon.svg">
</head>
<body class="docs">
<h1>{{ title }}: interface</h1>
<p>Requests and answers in JSON, forms as <code>multipart/form-data</code>. The whole description, for programs, is
<a href="/openapi.json">/openapi.json</a>; the <a href="/">search page</a> is made of nothing else.</p>
{% for endpoint in endpoints %}
<section>
<h2><code>{{ endpoint.method }} {{ endpoint.path }}</code></h2>
<p>{{ endpoint.description }}</p>
{% if endpoint.fields %}
<table>
<tr><th>field</th><th>kind</th><th>default</th><th>meaning</th></tr>
{% for field in endpoint.fields %}
<tr><td><code>{{ field.name }}</code></td><td>{{ field.kind }}</td><td>{{ field.default }}</td>
<td>{{ field.meaning }}</td></tr>
{% endfor %}
</table>
{% endif %}
</section>
{% endfor %}
<p>An example: <code>curl -F images=@photo.jpg -F text="at night" -F k=5 http://127.0.0.1:7860/api/search</code></p>
</body>
</html>
"""


def endpoints_page(schema: Mapping[str, Any]) -> str:
    """Return a page in HTML of an OpenAPI description."""
    endpoints = [
        {
            "method": method.upper(),
            "path": path,
            "description": about.get("description", ""),
            "fields": fields(schema, about),
        }
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    ]
    page = Environment(autoescape=True).from_string(_PAGE)
    return page.render(title=schema["info"]["title"], endpoints=endpoints)


def fields(schema: Mapping[str, Any], about: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the parameters of an endpoint, those of its address and those of its form."""
    listed = [(given["name"], given["schema"]) for given in about.get("parameters", [])]
    for content in about.get("requestBody", {}).get("content", {}).values():
        form = content["schema"]
        name = (form.get("$ref") or form.get("allOf", [{}])[0].get("$ref", "")).rpartition("/")[2]
        listed += schema["components"]["schemas"].get(name, form).get("properties", {}).items()
    return [
        {
            "name": name,
            "kind": _kind(given),
            "default": "" if given.get("default") in (None, "", []) else str(given["default"]),
            "meaning": given.get("description", ""),
        }
        for name, given in listed
    ]


def _kind(given: Mapping[str, Any]) -> str:
    if given.get("type") == "array":
        return f"{_kind(given['items'])}, several"
    if given.get("format") == "binary" or "contentMediaType" in given:
        return "file"
    bounds = [f"{given[name]:g}" for name in ("minimum", "maximum") if name in given]
    return given.get("type", "text").replace("string", "text") + (f" {' to '.join(bounds)}" if bounds else "")
