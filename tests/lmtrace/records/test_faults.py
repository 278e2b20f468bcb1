"""A disk that is full, read-only, damaged, locked or gone: one line that says what, where and what to do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from lmtrace.errors import RunError
from lmtrace.records import files, layout
from lmtrace.records.schema import Record
from lmtrace.records.store import RunWriter
from lmtrace.run import open_run

NOBODY = 65534


def records(step: int, size: int = 10) -> list[Record]:
    return [
        Record(step=step, signal="a", metric="b", array=np.ones(size)),
        *(Record(step=step, signal="output", metric="loss", label=f"{i}", value=1.0) for i in range(size)),
    ]


@contextlib.contextmanager
def as_nobody():
    """Act without root's right to write everywhere (as root), so that a read-only folder is one."""
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.fixture
def public_folder():
    """A folder whose parents anybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_a_read_only_folder_cannot_hold_a_run(public_folder, header):
    public_folder.chmod(0o555)
    with as_nobody():
        for folder in (public_folder, public_folder / "deep" / "run"):
            with pytest.raises(
                RunError, match=r"cannot create a run in .*: Permission denied. Make the folder writable, or"
            ) as caught:
                RunWriter.create(folder, header)
            assert "\n" not in str(caught.value)
    public_folder.chmod(0o755)
    assert list(public_folder.iterdir()) == []


def test_a_file_in_the_way_of_the_folder(tmp_path, header):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot create a run in .*: .* Choose a folder"):
            RunWriter.create(folder, header)
    with pytest.raises(RunError, match="is not a folder"):
        open_run(tmp_path / "file")


@pytest.mark.parametrize("crashed", [False, True])
def test_a_run_in_a_read_only_folder_is_read_but_not_resumed(public_folder, header, crashed):
    if crashed:  # its last measurement is in the log beside the database
        code = (
            "import os, sys; from lmtrace.records.store import *; from lmtrace.records.schema import *;"
            "w = RunWriter.create(sys.argv[1], RunHeader());"
            "w.write(3, [Record(step=3, signal='a', metric='b', value=1.0)]); os._exit(1)"
        )
        subprocess.run([sys.executable, "-c", code, str(public_folder)], check=False)
        (public_folder / "run.sqlite-shm").unlink()
    else:
        with RunWriter.create(public_folder, header) as writer:
            writer.write(3, [Record(step=3, signal="a", metric="b", value=1.0)])
    for path in public_folder.iterdir():
        path.chmod(0o444)
    public_folder.chmod(0o555)
    before = sorted(p.name for p in public_folder.iterdir())
    with as_nobody():
        run = open_run(public_folder)
        assert run.steps.tolist() == [3]
        assert run.status == ("crashed" if crashed else "finished")
        run.close()
        with pytest.raises(RunError, match=r"cannot resume the run in .*: Permission denied. Make the folder writable"):
            RunWriter.resume(public_folder, 0)
    public_folder.chmod(0o755)
    assert sorted(p.name for p in public_folder.iterdir()) == before


FULL = """
import resource, sys
import numpy as np
from lmtrace.errors import RunError
from lmtrace.records.schema import RunHeader, Record
from lmtrace.records.store import RunWriter
def records(step):
    numbers = [Record(step=step, signal="o", metric="l", label=f"{i}", value=i / 7, stderr=i / 3) for i in range(99)]
    return [*numbers, Record(step=step, signal="o", metric="a", array=np.ones(3))]
limit = int(sys.argv[2])
if limit < 100_000:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        RunWriter.create(sys.argv[1], RunHeader())
    except RunError as error:
        print(error)
    sys.exit()
writer = RunWriter.create(sys.argv[1], RunHeader())
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
step = 0
while step < 10_000:
    try:
        writer.write(step, records(step))
    except RunError as error:
        print(error)
        break
    step += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write(step, records(step))
print(step)
writer.finish()
"""


def test_a_full_disk_loses_nothing_acknowledged_and_writing_goes_on_once_there_is_room(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run"), "400000"], capture_output=True, text=True, check=True
    )
    error, step = done.stdout.splitlines()
    assert error.startswith(f"cannot write step {step} to {tmp_path / 'run'}: ")
    assert "what was acknowledged before is intact" in error
    run = open_run(tmp_path / "run")
    assert int(step) > 3
    assert run.steps.tolist() == list(range(int(step) + 1))
    assert len(list(run.records())) == 100 * (int(step) + 1)
    assert len(list((tmp_path / "run").glob("arrays/*"))) == int(step) + 1  # that of the refused write was taken back
    assert run.status == "finished"


@pytest.mark.parametrize("limit", [0, 5_000, 50_000])
def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, limit):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run"), str(limit)], capture_output=True, text=True, check=True
    )
    (error,) = done.stdout.splitlines()
    assert error.startswith(f"cannot create a run in {tmp_path / 'run'}: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("says", ["disk I/O error", "unable to open database file", "database or disk is full"])
def test_a_full_disk_is_called_full_whatever_the_database_says(tmp_path, monkeypatch, says):
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([real.f_bsize, real.f_frsize, real.f_blocks, 3, 3, *list(real)[5:10]])
    monkeypatch.setattr(files.os, "statvfs", lambda path: full)
    with (
        pytest.raises(RunError, match=r"cannot create a run in .*: the disk is full. Free space on this disk"),
        files.failing("create a run in", tmp_path / "not" / "yet"),
    ):
        raise sqlite3.OperationalError(says)


def test_another_error_of_the_disk_is_not_called_full(tmp_path):
    with pytest.raises(RunError, match="disk I/O error"), files.failing("create a run in", tmp_path):
        raise sqlite3.OperationalError("disk I/O error")


def test_no_space_for_an_array_stores_nothing_of_the_measurement(tmp_path, header, monkeypatch):
    with RunWriter.create(tmp_path / "run", header) as writer:
        writer.write(0, records(0))

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            with pytest.raises(
                RunError, match=r"cannot write step 1 to .*: No space left on device. Free space on this disk"
            ):
                writer.write(1, records(1))
        assert len(list((tmp_path / "run").glob("arrays/*"))) == 1
        assert open_run(tmp_path / "run").steps.tolist() == [0]
        writer.write(1, records(1))
    assert open_run(tmp_path / "run").steps.tolist() == [0, 1]


def test_a_measurement_that_fails_after_its_arrays_were_written_takes_them_back(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        with pytest.raises(RunError, match=r"array s.x has dtype"):
            writer.write(0, records(0), memory={"s": {"x": np.array(["text"])}})
        assert list(tmp_path.glob("arrays/*")) == []
        assert open_run(tmp_path).steps.tolist() == []


def test_a_locked_database_leaves_no_array_behind(tmp_path, header, monkeypatch):
    with RunWriter.create(tmp_path, header) as writer:
        writer.write(0, records(0))
        blocker = sqlite3.connect(tmp_path / "run.sqlite", isolation_level=None)
        writer._db.execute("PRAGMA busy_timeout = 50")
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match=r"cannot write step 1 to .*: database is locked. Another program holds"):
            writer.write(1, records(1))
        blocker.execute("ROLLBACK")
        blocker.close()
        assert len(list(tmp_path.glob("arrays/*"))) == 1
        writer.write(1, records(1))
    assert open_run(tmp_path).steps.tolist() == [0, 1]


def test_damage_is_reported_in_one_line(tmp_path, header):
    with RunWriter.create(tmp_path, header) as writer:
        for step in range(50):
            writer.write(step, records(step, 40))
    (array,) = tmp_path.glob("arrays/step-000000001-*")
    array.write_bytes(array.read_bytes()[:50])
    run = open_run(tmp_path)
    with pytest.raises(RunError, match=r"cannot read .*step-000000001.*The file is damaged") as caught:
        run.array(1, "a", "b")
    assert "\n" not in str(caught.value)
    array.unlink()
    with pytest.raises(RunError, match=r"cannot read .*step-000000001"):
        list(run.records())
    assert len(list(run.records(arrays=False))) == 50 * 40
    run.close()
    content = bytearray((tmp_path / "run.sqlite").read_bytes())
    for page in range(4096 * 2, len(content), 4096):
        content[page : page + 64] = os.urandom(64)
    (tmp_path / "run.sqlite").write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        list(open_run(tmp_path).records())


def test_another_programs_database_is_not_a_run(tmp_path):
    db = sqlite3.connect(tmp_path / layout.DATABASE)
    db.execute("CREATE TABLE header (json TEXT)")
    db.close()
    for action in (lambda: open_run(tmp_path), lambda: RunWriter.resume(tmp_path, 0)):
        with pytest.raises(RunError, match="is a database of another program"):
            action()
