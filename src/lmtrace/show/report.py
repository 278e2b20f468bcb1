"""One self-contained HTML file of one or several runs, that opens from disk and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from lmtrace.errors import RunError
from lmtrace.show.pack import unpack
from lmtrace.show.payload import MAX_BYTES, build

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="lmtrace">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<div id="app"><main>{fallback}</main></div>
{payload}<script>{script}</script>
</body>
</html>
"""


def write_report(
    runs: Any | Sequence[Any],
    path: str | os.PathLike[str],
    findings: Sequence[Iterable[Any]] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the report of one or several runs.

    Parameters
    ----------
    runs
        An open run (`lmtrace.open_run`) or several, which are then overlaid.
    path
        The HTML file; replaced as a whole where it exists.
    findings
        One iterable of findings per run; by default each run's own (`run.findings()`).
    max_bytes
        Limit of the packed numbers; the number of measurements drawn is reduced to keep to it.

    Raises
    ------
    RunError
        Where there is no run, or the file cannot be written.
    """
    runs = list(runs) if isinstance(runs, Sequence) else [runs]
    if not runs:
        raise RunError("there is no run to report", "Give at least one run")
    path = Path(path)
    text = report_html(build(runs, findings, max_bytes))
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"the report {path} cannot be written: {error.strerror}", "Choose a file that can be written"
        ) from error
    return path


def report_html(payload: bytes) -> str:
    """Return the whole page around a payload."""
    head, _ = unpack(payload)
    text = base64.b64encode(payload).decode()
    title = ", ".join(run["name"] for run in head["runs"])
    return page(
        f"{title} · TRACE", _fallback(head), f'<script type="application/octet-stream" id="payload">{text}</script>\n'
    )


def page(title: str, fallback: str, payload: str = "", connect: str = "'none'") -> str:
    """Return the HTML page that holds the bundle; its policy allows this bundle's script and no address but `connect`."""
    script, style = static("app.js"), static("style.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    return PAGE.format(
        policy=policy, title=html.escape(title), style=style, fallback=fallback, payload=payload, script=script
    )


def static(name: str) -> str:
    """Return a file of the built bundle."""
    return resources.files("lmtrace.show").joinpath("static", name).read_text(encoding="utf-8")


def _fallback(head: dict[str, Any]) -> str:
    """Return the findings as plain text, for readers without scripts."""
    parts = []
    for run in head["runs"]:
        found = "".join(f"<li>{html.escape(str(f.get('sentence', '')))}</li>" for f in run["findings"])
        parts.append(f"<h1>{html.escape(run['name'])}</h1><ul>{found}</ul>")
    return "<noscript>" + "".join(parts) + "<p>The figures need scripts to be allowed.</p></noscript>"
