"""The loopback tile server: what it gives, and what it must not."""

from __future__ import annotations

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.acquire.serve import serve_tiles
from pipeline.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for x in range(4):
        for y in range(8):
            path = tmp_path / "tiles" / "20" / str(x) / f"{y}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"tile %d %d" % (x, y) * 3000)
    (tmp_path / "tiles" / "secret.txt").write_text("secret")
    (tmp_path / "tiles" / "20" / "1" / "secret.png").write_text("secret")
    (tmp_path / "20").mkdir()
    (tmp_path / "20" / "1").mkdir()
    (tmp_path / "20" / "1" / "2.png").write_text("secret")
    return tmp_path / "tiles"


def get(host, path, method="GET"):
    connection = http.client.HTTPConnection(host, timeout=5)
    connection.putrequest(method, path, skip_accept_encoding=True)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def test_tiles_come_back_as_they_are(folder):
    with serve_tiles(folder) as host:
        response, body = get(host, "/20/3/7.png?key=1")
        assert (response.status, body) == (200, b"tile 3 7" * 3000)
        assert response.headers["Content-Type"] == "image/png"
        tag = response.headers["ETag"]
        assert tag == get(host, "/20/3/7.png")[0].headers["ETag"]
        (folder / "20" / "3" / "7.png").write_bytes(b"new")
        response, body = get(host, "/20/3/7.png")
        assert body == b"new" and response.headers["ETag"] != tag


@pytest.mark.parametrize(
    "path",
    [
        "/20/3/8.png",
        "/20/3/7.jpg",
        "/",
        "/20/1",
        "/secret.txt",
        "/20/1/secret.png",
        "/../20/1/2.png",
        "/20/1/../../../20/1/2.png",
        "/%2e%2e/20/1/2.png",
        "//etc/passwd",
        "/20/1/2.png/../secret.png",
        "/20/1/2.png%00",
    ],
)
def test_anything_else_is_a_404(folder, path):
    with serve_tiles(folder) as host, socket.create_connection(host.split(":")) as raw:
        raw.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] == b"404" and b"secret" not in answer


def test_only_loopback_and_only_get(folder):
    with serve_tiles(folder) as host:
        assert host.startswith("127.0.0.1:")
        assert get(host, "/20/3/7.png", "PUT")[0].status == 501
        with socket.socket() as outside, pytest.raises(OSError):
            outside.settimeout(1)
            outside.connect(("127.0.0.2", int(host.split(":")[1])))


def test_many_at_once_on_kept_connections(folder):
    def column(x):
        connection = http.client.HTTPConnection(host, timeout=5)
        bodies = []
        for y in range(8):
            connection.request("GET", f"/20/{x % 4}/{y}.png")
            bodies.append(connection.getresponse().read())
        return bodies == [b"tile %d %d" % (x % 4, y) * 3000 for y in range(8)]

    with serve_tiles(folder) as host, ThreadPoolExecutor(32) as pool:
        assert all(pool.map(column, range(64)))


def test_it_ends_with_the_block_even_when_a_client_stays(folder):
    with serve_tiles(folder) as host:
        stays = http.client.HTTPConnection(host, timeout=5)
        stays.request("GET", "/20/0/0.png")
        stays.getresponse().read()
    with pytest.raises(OSError):
        get(host, "/20/0/0.png")
    stays.close()


def test_it_is_quiet(folder, capfd):
    with serve_tiles(folder) as host:
        get(host, "/20/3/7.png")
        with socket.create_connection(host.split(":")) as raw:
            raw.sendall(b"nonsense\r\n\r\n")
            raw.recv(100)
    assert capfd.readouterr() == ("", "")


def test_a_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(DataError, match="nowhere"), serve_tiles(tmp_path / "nowhere"):
        pass
