"""HTTP/2 against a server that speaks it: many tiles over one connection."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import threading
from contextlib import contextmanager

import h2.config
import h2.connection
import h2.events
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline.acquire.cache import TileCache
from pipeline.acquire.http import Errand, Policy, TileUrl, fetch_all

TILES = [(4, x, y) for y in range(10) for x in range(10)]


def certificate(folder):
    """A key and a certificate of 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


class Server:
    """Answers GET with the path as the body, over HTTP/2 or HTTP/1.1 as the client can."""

    def __init__(self, pem, protocols):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(pem)
        self.tls.set_alpn_protocols(protocols)
        self.spoken = []
        self.asked = []

    async def handle(self, reader, writer):
        two = writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        self.spoken.append("HTTP/2" if two else "HTTP/1.1")
        try:
            await (self.speak_2 if two else self.speak_1)(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def speak_1(self, reader, writer):
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            self.asked.append(path.decode())
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async def speak_2(self, reader, writer):
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    path = dict(event.headers)[b":path"]
                    self.asked.append(path.decode())
                    connection.send_headers(event.stream_id, [(":status", "200")])
                    connection.send_data(event.stream_id, path, end_stream=True)
            writer.write(connection.data_to_send())

    @contextmanager
    def running(self):
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self.handle, "127.0.0.1", 0, ssl=self.tls))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(server.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


@pytest.mark.parametrize(
    ("http2", "protocols", "spoken"),
    [(True, ["h2", "http/1.1"], "HTTP/2"), (True, ["http/1.1"], "HTTP/1.1"), (False, ["h2", "http/1.1"], "HTTP/1.1")],
)
def test_http2_is_spoken_where_asked_for_and_known(tmp_path, log, monkeypatch, http2, protocols, spoken):
    pem = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server(pem, protocols).running() as server:
        url = TileUrl(f"https://127.0.0.1:{server.port}/{{z}}/{{x}}/{{y}}")
        policy = Policy(connections=8, retries=3, timeout_s=10.0, backoff_s=0.05, http2=http2)
        with TileCache(tmp_path / "t.sqlite", url.public, log) as cache:
            done = fetch_all(Errand("far", url, policy, lambda tile, answer, headers: answer), TILES, cache, log)
            assert all(cache.body((z, x, y)) == f"/{z}/{x}/{y}".encode() for z, x, y in TILES)
    assert done.fetched == 100 and not done.retries and len(server.asked) == 100
    assert set(server.spoken) == {spoken} and (len(server.spoken) == 1 if spoken == "HTTP/2" else True)
