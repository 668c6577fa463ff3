"""Downloads against a local server: complete, cut and resumed, wrong, absent, offline."""

import errno
import http.server
import io
import shutil
import threading

import h5py
import numpy as np
import pytest

from cfdg_jax.data import d4rl, download, files
from cfdg_jax.data.hdf5 import require_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError

NAME = "hopper-medium-v2"
PATH = "gym_mujoco_v2/hopper_medium-v2.hdf5"


def payload(rows=2000) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        file["observations"] = np.random.default_rng(rows).normal(size=(rows, 11)).astype(np.float32)
        file["actions"], file["rewards"] = np.zeros((rows, 3), np.float32), np.zeros(rows, np.float32)
        file["terminals"], file["timeouts"] = np.zeros(rows, bool), np.arange(rows) % 100 == 99
    return image.getvalue()


class Server:
    """Serves ``{path: bytes}`` with ranges; connections may be told to end early."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []  # bytes after which the next connections end
        self.requests: list[tuple[str, str | None]] = []
        self.ranges, self.tag = True, '"v1"'
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body, span = outer.files.get(self.path), self.headers.get("Range")
                outer.requests.append((self.path, span))
                if body is None:
                    self.send_error(404)
                    return
                same = self.headers.get("If-Range") in (None, outer.tag)
                start = int(span.removeprefix("bytes=").rstrip("-")) if span and outer.ranges and same else 0
                if start > len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.send_header("ETag", outer.tag)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                self.end_headers()
                cut = outer.cuts.pop(0) if outer.cuts else len(body)
                self.wfile.write(body[start : start + cut])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch, tmp_path):
    served = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("CFDG_OFFLINE", raising=False)
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CFDG_MIRRORS", served.url)
    monkeypatch.setattr(d4rl, "SERVERS", ())
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "d4rl" / "hopper_medium-v2.hdf5"


def leftovers(target):
    return {p.name for p in target.parent.iterdir() if not p.name.endswith(".lock")}


def test_complete_download_is_recorded_and_kept(server, target):
    body = server.files[f"/{PATH}"] = payload()
    data = load_dataset(f"d4rl:{NAME}", progress=False)
    assert target.read_bytes() == body and leftovers(target) == {target.name, f"{target.name}.sha256"}
    assert (data.task, data.dynamics, data.origin, data.name) == ("hopper", "d4rl", "d4rl", f"d4rl:{NAME}")
    assert len(data) == 2000 - 20 and data.sha256 == files.sha256_of(target)
    load_dataset(f"d4rl:{NAME}", progress=False)
    assert len(server.requests) == 1
    target.write_bytes(body[:-1] + b"!")
    with pytest.raises(UserError, match="has changed since it was fetched"):
        load_dataset(f"d4rl:{NAME}", progress=False)


def test_a_cut_connection_is_continued(server, target):
    body = server.files[f"/{PATH}"] = payload()
    server.cuts = [30_000, 20_000]
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body
    assert [span for _, span in server.requests] == [None, "bytes=30000-", "bytes=50000-"]


def test_a_later_call_continues_an_interrupted_one(server, target, monkeypatch):
    body = server.files[f"/{PATH}"] = payload()
    server.cuts = [40_000, 0]
    with pytest.raises(
        UserError, match=r"could not be downloaded: .* \((the connection ended|IncompleteRead|delivered an empty)"
    ):
        d4rl.fetch(NAME, progress=False)
    assert not target.exists() and target.with_name(target.name + ".part").stat().st_size == 40_000
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body and server.requests[-1][1] == "bytes=40000-"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_changed_or_rangeless_server_starts_over(server, target, ranges):
    server.files[f"/{PATH}"] = payload(1500)
    server.cuts = [40_000, 0]
    with pytest.raises(UserError):
        d4rl.fetch(NAME, progress=False)
    body = server.files[f"/{PATH}"] = payload()
    server.tag, server.ranges = '"v2"', ranges
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body


def test_a_partial_file_longer_than_the_remote_one_is_dropped(server, target):
    body = server.files[f"/{PATH}"] = payload(100)
    target.parent.mkdir(parents=True)
    target.with_name(target.name + ".part").write_bytes(bytes(len(body) + 10))
    origin = f'{{"url": "{server.url}/{PATH}", "total": {len(body) + 99}, "validator": "\\"v1\\""}}'
    target.with_name(target.name + ".part.json").write_text(origin)
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body and server.requests[0][1] == f"bytes={len(body) + 10}-"


def test_mirrors_are_tried_in_order(server, target, monkeypatch):
    body = payload()
    server.files |= {"/html/hopper_medium-v2.hdf5": b"<html>busy</html>", f"/third/{PATH}": body}
    server.files["/empty/hopper_medium-v2.hdf5"] = b""
    mirrors = f"{server.url}/first, {server.url}/html/{{file}},{server.url}/empty/{{file}}"
    monkeypatch.setenv("CFDG_MIRRORS", mirrors)
    monkeypatch.setattr(d4rl, "SERVERS", (f"{server.url}/third/",))
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body and leftovers(target) == {target.name, f"{target.name}.sha256"}
    asked = list(dict.fromkeys(path.split("/")[1] for path, _ in server.requests))
    assert asked == ["first", "html", "empty", "third"]


def test_when_nothing_delivers_the_message_says_all(server, target, monkeypatch):
    monkeypatch.setenv("CFDG_MIRRORS", f"{server.url}/a,http://127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        load_dataset(f"d4rl:{NAME}", progress=False)
    text = str(caught.value)
    assert text.startswith(f"d4rl:{NAME}: could not be downloaded: tried {server.url}/a/{PATH} (HTTP 404")
    assert "http://127.0.0.1:9/" in text and "refused" in text and f"to {target}" in text and "\n" not in text


def test_a_wrong_checksum_is_never_accepted(server, tmp_path):
    server.files["/x"] = payload()
    target = tmp_path / "x.hdf5"
    with pytest.raises(UserError, match=r"sha256 .* expected 000000000000"):
        download.download(target, [f"{server.url}/x"], what="x", check=require_hdf5, sha256="0" * 64, progress=False)
    assert leftovers(target) == set()


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_offline_says_where_to_put_the_file(server, target, monkeypatch, how):
    server.files[f"/{PATH}"] = payload()
    if how == "variable":
        monkeypatch.setenv("CFDG_OFFLINE", "1")
    with pytest.raises(UserError, match="downloads are off") as caught:
        load_dataset(f"d4rl:{NAME}", download=how == "variable")
    assert server.requests == [] and f"{server.url}/{PATH} to {target}" in str(caught.value)
    target.parent.mkdir(parents=True)
    target.write_bytes(server.files[f"/{PATH}"])
    assert len(load_dataset(f"d4rl:{NAME}", download=False)) == 1980


def test_a_full_disk_is_named_before_the_download(server, target, monkeypatch):
    server.files[f"/{PATH}"] = payload()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(OSError) as caught:
        d4rl.fetch(NAME, progress=False)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target) and not target.exists()


def test_a_truncated_mirror_copy_is_not_accepted(server, target):
    server.files[f"/{PATH}"] = payload()[:-3000]
    with pytest.raises(UserError, match="delivered a file that is truncated"):
        d4rl.fetch(NAME, progress=False)
    assert leftovers(target) == set()


@pytest.mark.parametrize(
    ("written", "below"),
    [
        ("{folder}", PATH),
        ("{folder}/", PATH),
        ("{folder}", PATH.rpartition("/")[2]),
        ("{folder}/{{path}}", PATH),
        ("file://{folder}", PATH),
    ],
)
def test_a_folder_is_a_mirror(server, target, tmp_path, monkeypatch, written, below):
    folder, body = tmp_path / "mounted here", payload()
    source = folder / below
    source.parent.mkdir(parents=True)
    source.write_bytes(body)
    monkeypatch.setenv("CFDG_MIRRORS", written.format(folder=folder))
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body and leftovers(target) == {target.name, f"{target.name}.sha256"}
    assert server.requests == [] and source.read_bytes() == body


@pytest.mark.parametrize("mirror", ["/no/such/folder", "mirror.example.org/d4rl", "htp://x", "http://[bad", "https://"])
def test_a_mirror_that_is_none_is_named_and_the_next_one_tried(server, target, monkeypatch, mirror):
    server.files[f"/{PATH}"] = payload()
    monkeypatch.setenv("CFDG_MIRRORS", mirror)
    with pytest.raises(UserError, match="could not be downloaded: tried") as caught:
        d4rl.fetch(NAME, progress=False)
    assert mirror in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setenv("CFDG_MIRRORS", f"{mirror},{server.url}")
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == payload()


def test_a_file_that_cannot_be_written_is_no_network_error(server, target, monkeypatch):
    server.files[f"/{PATH}"] = payload()

    def refuse(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(download, "_sink", lambda *args: type("Sink", (), {"write": refuse})())
    with pytest.raises(UserError, match=f"{target}: cannot be written .Permission denied"):
        d4rl.fetch(NAME, progress=False)


@pytest.mark.parametrize("origin", ["[]", "{", '{"url": 3}'])
def test_an_unreadable_note_beside_a_partial_file_starts_over(server, target, origin):
    body = server.files[f"/{PATH}"] = payload()
    target.parent.mkdir(parents=True)
    target.with_name(target.name + ".part").write_bytes(b"junk")
    target.with_name(target.name + ".part.json").write_text(origin)
    d4rl.fetch(NAME, progress=False)
    assert target.read_bytes() == body
