"""The dashboard among enemies and crowds: raw bytes on the socket, half requests, fifty readers while a run is written."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from lmtrace.run import open_run
from lmtrace.show import library
from lmtrace.show.dashboard import dashboard
from lmtrace.show.pack import unpack
from reference.example_run import measure, write_example

Serving = Callable[[Any], AbstractContextManager[str]]
SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "runs"
    write_example(root / "run", num_steps=300)
    (root.parent / "secret.txt").write_bytes(SECRET)
    (root / "run" / "secret.txt").write_bytes(SECRET)
    return root


def get(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(address: str, content: bytes, wait: float = 10.0, hang_up: bool = False) -> bytes:
    """Send bytes as they are, perhaps as the last ones; return what comes back until the server closes or falls silent."""
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=wait) as connection:
        said = b""
        try:
            connection.sendall(content)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                said += part
        except (TimeoutError, ConnectionError):
            pass
        return said


def request(target: bytes, *headers: bytes, host: bytes = b"localhost", method: bytes = b"GET") -> bytes:
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


TRAVERSALS = [
    b"/../secret.txt", b"/../../../../../../etc/passwd", b"/%2e%2e/secret.txt", b"/%2e%2e%2fsecret.txt", b"/..%5csecret.txt",
    b"//etc/passwd", b"/static/../../secret.txt", b"/run/secret.txt", b"/runs/run/secret.txt", b"/./run/secret.txt",
    b"/%252e%252e%252fsecret.txt", b"/%00/../secret.txt", b"file:///etc/passwd", b"http://localhost/../secret.txt",
    b"/api/payload?run=..", b"/api/payload?run=../runs/run", b"/api/payload?run=run/..", b"/api/payload?run=run%00",
    b"/api/payload?run=%2e%2e%2fruns", b"/api/findings?run=/etc", b"/api/live?run=../x@0", b"/api/payload?run=run/secret.txt",
]  # fmt: skip


@pytest.mark.parametrize("target", TRAVERSALS)
def test_nothing_outside_the_runs_is_served(folder: Path, serving: Serving, target: bytes) -> None:
    with serving(dashboard(folder)) as address:
        said = raw(address, request(target))
        assert said.startswith(b"HTTP/1.1 4"), said[:80]
        assert SECRET not in said
        assert b"root:" not in said
        assert b"Traceback" not in said


MALFORMED = [
    b"", b"\r\n\r\n", b"\x00" * 500, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"G\xffT / HTTP/1.1\r\nHost: localhost\r\n\r\n", request(b"/\xff\xfe"), request(b"/", b"no colon"),
    request(b"/", b"X: a\r\n folded"), request(b"/", b"X: \x00"), request(b"/", b"Host: evil.example"),
    request(b"/", b"Content-Length: -1"), request(b"/", b"Content-Length: 9" + b"9" * 30), request(b"/", b"Content-Length: 5") + b"hello",
    request(b"/", b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    request(b"/", b"Transfer-Encoding: chunked") + b"ffffffff\r\n" + b"x" * 100, request(b"/" + b"a" * 60_000),
    request(b"/", b"X: " + b"a" * 100_000), request(b"/", *[b"X%d: y" % i for i in range(5_000)]),
    request(b"/api/runs", method=b"A" * 10_000), request(b"/", host=b"evil.example"), request(b"/", host=b"localhost\x00"),
    request(b"/", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: x", b"Sec-WebSocket-Version: 13"),
    request(b"/api/live?run=run@\xef\xbc\x91"), request(b"/api/live?run=run@1e9"), request(b"/?token=" + b"%ff" * 100),
    request(b"/api/payload?" + b"&".join([b"run=run"] * 1_000)), request(b"/", b"Cookie: lmtrace-token=\xff\xfe; =;;;"),
]  # fmt: skip


def test_malformed_and_oversized_requests_hurt_nobody(folder: Path, serving: Serving) -> None:
    chance = random.Random(0)
    with serving(dashboard(folder)) as address:
        scrambled = [bytes(chance.randrange(256) for _ in range(300)) for _ in range(30)]
        for _ in range(60):
            content = bytearray(request(b"/api/payload?run=run", b"Accept: */*"))
            for _ in range(chance.choice((1, 2, 5))):
                content[chance.randrange(len(content))] = chance.randrange(256)
            scrambled.append(bytes(content))
        for content in (*MALFORMED, *scrambled):
            said = raw(address, content, wait=0.5, hang_up=True)
            assert said == b"" or said.startswith(b"HTTP/1.1 "), (content[:80], said[:80])
            assert not said.startswith(b"HTTP/1.1 5"), (content[:80], said[:200])
            assert b"Traceback" not in said
        assert get(address, "/api/runs")[0] == 200


def test_two_host_headers_and_absolute_targets_do_not_smuggle(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder)) as address:
        for content in (
            request(b"/api/runs", b"Host: localhost", host=b"evil.example"),
            request(b"/api/runs", b"Host: evil.example"),
            request(b"http://localhost/api/runs", host=b"evil.example"),
            request(b"/api/runs", b"X-Forwarded-Host: localhost", host=b"evil.example"),
        ):
            said = raw(address, content)
            assert said.startswith(b"HTTP/1.1 400"), (content, said[:100])


def test_requests_that_never_end_keep_nobody_waiting(folder: Path, serving: Serving) -> None:
    with serving(dashboard(folder)) as address:
        where = urlsplit(address)
        half = [socket.create_connection((where.hostname, where.port), timeout=5) for _ in range(40)]
        try:
            for i, connection in enumerate(half):
                connection.sendall(request(b"/api/runs")[: 5 + i])
            for _ in range(3):
                assert get(address, "/api/runs")[0] == 200
        finally:
            for connection in half:
                connection.close()
        assert get(address, "/api/payload?run=run")[0] == 200


def test_fifty_readers_while_a_run_is_written(
    tmp_path: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "findings", lambda run: [])
    writer = write_example(tmp_path / "live", num_steps=200, finish=False)
    writing, problems, seen = threading.Event(), [], [0] * 50
    writing.set()

    def read(i: int, address: str) -> None:
        last, rounds = -1, 0
        while writing.is_set() or rounds == 0:
            rounds += 1
            try:
                status, body = get(address, "/api/payload?run=live" if i % 5 else "/api/runs")
                if status != 200:
                    problems.append((i, status, body[:200]))
                    continue
                cursor = unpack(body)[0]["runs"][0]["cursor"] if i % 5 else json.loads(body)["runs"][0]["step"]
                if cursor < last:
                    problems.append((i, "went back", last, cursor))
                last = cursor
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                problems.append((i, repr(error)))
            seen[i] = rounds

    with serving(dashboard(tmp_path)) as address:
        readers = [threading.Thread(target=read, args=(i, address), daemon=True) for i in range(50)]
        for reader in readers:
            reader.start()
        rng = np.random.default_rng(0)
        for step in range(300, 2_300, 100):
            measure(writer, step, 100, 4, rng, 10_000)
        writing.clear()
        for reader in readers:
            reader.join(60)
        assert not any(reader.is_alive() for reader in readers)
        assert problems == []
        assert min(seen) >= 1
        writer.finish()
        assert get(address, "/api/runs")[0] == 200
    with open_run(tmp_path / "live") as run:
        assert run.status == "finished"
        assert run.steps[-1] == 2_200
