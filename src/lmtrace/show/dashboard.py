"""The live dashboard: `lmtrace view runs/`. Read only; the same bundle as the report; new numbers over server-sent events."""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from os import PathLike
from typing import Any

import anyio
import anyio.to_thread
from rich.console import Console
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lmtrace.analysis.compare import compare
from lmtrace.errors import ConfigError, TraceError
from lmtrace.records.reader import RunReader
from lmtrace.records.schema import Changes
from lmtrace.show.library import Library
from lmtrace.show.pack import plain
from lmtrace.show.payload import build, finding, inspections
from lmtrace.show.report import page

log = logging.getLogger(__name__)

MAX_SELECTED = 32
MAX_STREAMS = 64
MAX_ADDRESS = 8_192
POLL_SECONDS = 0.25
HEARTBEAT_SECONDS = 15.0
PAYLOAD_BYTES = 6_000_000
LOCAL = ("localhost", "127.0.0.1", "::1")
COOKIE = "lmtrace-token"


def serve(
    folder: str | PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8321,
    token: str | None = None,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve the dashboard of a folder of runs until it is interrupted.

    Parameters
    ----------
    folder
        Where the runs lie, or one run.
    host
        Address to listen on. Anything but this machine itself needs a `token`.
    port
        0 takes a free one.
    token
        Secret that every request has to bring; the announced address holds it (`new_token` makes one).
    announce
        Called with the address to open, once the server listens; by default it is printed.

    Raises
    ------
    ConfigError
        Where another machine could reach it without a token.
    RunError
        Where the folder is not there.
    """
    import uvicorn  # 60 ms that `lmtrace --help` does not need

    if not is_local(host) and not token:
        raise ConfigError(
            f"view: {host} can be reached by other machines and no token is set", "Pass a token, or listen on 127.0.0.1"
        )
    config = uvicorn.Config(
        dashboard(folder, token=token, hosts=[host]), host=host, port=port, log_level="warning", access_log=False,
        server_header=False, timeout_graceful_shutdown=1, limit_concurrency=4 * MAX_STREAMS,
        http="h11", h11_max_incomplete_event_size=16_384,  # the other parser knows no limit for headers
    )  # fmt: skip
    config.load()
    server = uvicorn.Server(config)
    say = announce or (
        lambda address: Console().print(f"Dashboard: {address} (Ctrl-C stops it)", soft_wrap=True, markup=False)
    )
    started = server.startup

    async def startup(sockets: Any = None) -> None:
        await started(sockets)
        if server.started:
            bound = server.servers[0].sockets[0].getsockname()[1]
            shown = "localhost" if is_local(host) or host in ("0.0.0.0", "::") else host
            say(f"http://{shown}:{bound}/" + (f"?token={token}" if token else ""))

    server.startup = startup
    server.run()


def new_token() -> str:
    """Return a secret for `serve`."""
    return secrets.token_urlsafe(24)


def is_local(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def dashboard(folder: str | PathLike[str], token: str | None = None, hosts: Iterable[str] = ()) -> Starlette:
    """Return the application (ASGI) that shows the runs below a folder.

    Parameters
    ----------
    folder
        Where the runs lie.
    token
        Secret that every request has to bring, as `?token=` once (a cookie keeps it) or as `Authorization: Bearer`.
    hosts
        Names that the `Host` header may carry besides those of this machine. An address that means "every
        interface" (0.0.0.0, ::) lets any name through; the token then guards.
    """
    library = Library(folder)
    streams = anyio.CapacityLimiter(MAX_STREAMS)

    async def index(_: Request) -> Response:
        return HTMLResponse(
            page(
                "TRACE",
                "<p>Loading the runs…</p><noscript>The dashboard needs scripts to be allowed.</noscript>",
                connect="'self'",
            )
        )

    async def runs(_: Request) -> Response:
        return JSONResponse({"folder": library.folder.name, "runs": await anyio.to_thread.run_sync(library.summaries)})

    async def payload(request: Request) -> Response:
        chosen = await anyio.to_thread.run_sync(_selected, library, request.query_params.getlist("run"))
        data = await anyio.to_thread.run_sync(_payload, chosen)
        return Response(data, media_type="application/octet-stream")

    async def findings(request: Request) -> Response:
        chosen = await anyio.to_thread.run_sync(_selected, library, request.query_params.getlist("run"))
        found = await anyio.to_thread.run_sync(
            lambda: {name: [finding(f) for f in library.findings(name)] for name in chosen}
        )
        return JSONResponse(plain(found))

    async def between(request: Request) -> Response:
        chosen = await anyio.to_thread.run_sync(_selected, library, request.query_params.getlist("run"))
        return JSONResponse(
            plain(await anyio.to_thread.run_sync(lambda: [finding(f) for f in compare(list(chosen.values()))]))
        )

    async def sentences(request: Request) -> Response:
        chosen = await anyio.to_thread.run_sync(_selected, library, request.query_params.getlist("run"))
        found = await anyio.to_thread.run_sync(lambda: {name: inspections(run) for name, run in chosen.items()})
        return JSONResponse(plain(found))

    async def live(request: Request) -> Response:
        wanted = dict(_cursor(text) for text in request.query_params.getlist("run"))
        chosen = await anyio.to_thread.run_sync(_selected, library, list(wanted))
        if streams.available_tokens < 1:
            return PlainTextResponse("Too many open pages. Close some.", 503, {"Retry-After": "5"})
        return StreamingResponse(
            _stream(request, {name: (run, wanted[name]) for name, run in chosen.items()}, streams),
            media_type="text/event-stream", headers={"X-Accel-Buffering": "no"},
        )  # fmt: skip

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": library.shown(str(error))}, 404 if "there is no run" in str(error) else 400)

    return Starlette(
        routes=[
            Route("/", index), Route("/api/runs", runs), Route("/api/payload", payload),
            Route("/api/findings", findings), Route("/api/inspections", sentences),
            Route("/api/comparison", between), Route("/api/live", live),
        ],
        middleware=[Middleware(Guard, token=token, hosts=[*LOCAL, *hosts])],
        exception_handlers={TraceError: refused},
    )  # fmt: skip


class Guard:
    """Lets through what names this server, brings the token where there is one, and only reads."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: list[str]) -> None:
        self.app, self.token, self.hosts = app, token, {h.lower().strip("[]") for h in hosts}
        self.any_host = bool(self.hosts & {"0.0.0.0", "::"}) and token is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refuse(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", []).extend([
                    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"cache-control", b"no-store"),
                    (b"cross-origin-resource-policy", b"same-origin"), (b"x-frame-options", b"DENY"),
                ])  # fmt: skip
            await send(message)

        await self.app(scope, receive, guarded)

    def _refuse(self, request: Request) -> Response | None:
        named = request.headers.getlist("host")
        if len(named) != 1 or (not self.any_host and host_name(named[0]) not in self.hosts):
            return PlainTextResponse("The Host header names another server.", 400)
        if len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"]) > MAX_ADDRESS:
            return PlainTextResponse("The address is too long.", 414)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Read only.", 405, {"Allow": "GET, HEAD"})
        if request.headers.get("content-length", "0") not in ("0", "") or "transfer-encoding" in request.headers:
            return PlainTextResponse("No request body is read here.", 413)
        if self.token is None:
            return None
        if _same(request.query_params.get("token", ""), self.token) and request.url.path == "/":
            rest = [(k, v) for k, v in request.query_params.multi_items() if k != "token"]
            answer = RedirectResponse(
                str(request.url.replace_query_params().include_query_params(**dict(rest)).replace(scheme="", netloc=""))
                or "/",
                303,
            )
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict", path="/")
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if _same(request.cookies.get(COOKIE, ""), self.token) or _same(bearer, self.token):
            return None
        return PlainTextResponse("A token is needed: open the address that `lmtrace view` printed.", 401)


def host_name(header: str) -> str:
    """Return the name of a Host header without its port, in lower case; empty where it is malformed."""
    header = header.strip().lower()
    if header.startswith("["):
        name, bracket, rest = header[1:].partition("]")
        return name if bracket and (not rest or (rest[0] == ":" and rest[1:].isdigit())) else ""
    name, colon, port = header.partition(":")
    return name if not colon or port.isdigit() else ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


# ------------------------------------------------------------------------------------------------------- what is sent
def _selected(library: Library, names: list[str]) -> dict[str, RunReader]:
    if not names:
        raise ConfigError("no run is named", "Ask with ?run=NAME")
    if len(names) > MAX_SELECTED:
        raise ConfigError(f"{len(names)} runs are named, at most {MAX_SELECTED} are shown together", "Choose fewer")
    return {name: library.get(name) for name in names}


def _cursor(text: str) -> tuple[str, int]:
    name, _, cursor = text.rpartition("@")
    if not name or not cursor.isdigit() or len(cursor) > 15:
        raise ConfigError("a run to follow has to be NAME@CURSOR", "Take the cursor from the payload")
    return name, int(cursor)


def _payload(chosen: dict[str, RunReader]) -> bytes:
    # The cursors are read first: what is written in between comes again over the stream, and is not added twice.
    cursors = [run.cursor for run in chosen.values()]
    marks = [{"id": name, "cursor": cursor} for name, cursor in zip(chosen, cursors)]
    return build(list(chosen.values()), [[] for _ in chosen], PAYLOAD_BYTES, marks)


async def _stream(
    request: Request, chosen: dict[str, tuple[RunReader, int]], streams: anyio.CapacityLimiter
) -> AsyncIterator[str]:
    cursors = {name: cursor for name, (_, cursor) in chosen.items()}
    states: dict[str, str] = {}
    async with streams:
        yield "retry: 2000\n\n"
        quiet = 0.0
        while not await request.is_disconnected():
            sent = False
            for name, (run, _) in chosen.items():
                try:
                    changes = await anyio.to_thread.run_sync(_changes, run, cursors[name])
                except TraceError as error:
                    yield f"event: broken\ndata: {json.dumps({'run': name, 'error': type(error).__name__})}\n\n"
                    return
                if changes is not None or states.get(name) != run.status:
                    states[name] = run.status
                    data = {
                        "run": name,
                        "status": states[name],
                        **(delta(changes) if changes else {"cursor": cursors[name]}),
                    }
                    cursors[name] = data["cursor"]
                    sent = True
                    yield f"data: {json.dumps(plain(data), separators=(',', ':'))}\n\n"
            quiet = 0.0 if sent else quiet + POLL_SECONDS
            if quiet >= HEARTBEAT_SECONDS:
                quiet = 0.0
                yield ": still here\n\n"
            await anyio.sleep(POLL_SECONDS)


def _changes(run: RunReader, cursor: int) -> Changes | None:
    return run.since(cursor) if run.cursor != cursor else None


def delta(changes: Changes) -> dict[str, Any]:
    """Return what a run gained, as the page adds it: one row per series and step."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    arrays = []
    for r in changes.records:
        if r.array is not None:
            arrays.append({
                "signal": r.signal, "metric": r.metric, "label": r.label, "split": r.split, "site": r.site, "step": r.step,
                "shape": list(r.array.shape), "data": r.array.reshape(-1).tolist(),
            })  # fmt: skip
            continue
        key = (r.step, r.signal, r.metric, r.label, r.split)
        row = rows.setdefault(key, {
            "step": r.step, "key": key[1:], "sites": [], "values": [], "stderr": [], "null": [], "n": [], "missing": [],
        })  # fmt: skip
        row["sites"].append(r.site)
        for name, value in (
            ("values", r.value),
            ("stderr", r.stderr),
            ("null", r.null),
            ("n", r.n),
            ("missing", r.missing),
        ):
            row[name].append(value)
    return {
        "cursor": changes.cursor, "supersededAfter": changes.superseded_after, "rows": list(rows.values()), "arrays": arrays,
        "scalars": {metric: {"steps": steps.tolist(), "values": values.tolist()} for metric, (steps, values) in changes.scalars.items()},
        "events": [{"step": e.step, "kind": e.kind, "text": e.text, "data": e.data, "time": e.time} for e in changes.events],
    }  # fmt: skip
