"""Extracts by url: what is refused, in one line, and that nothing is left of it."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.acquire import osm_download
from pipeline.acquire.http import Policy
from pipeline.acquire.osm_download import download_extract
from pipeline.command import Log
from pipeline.errors import DownloadError
from pipeline.schema import OsmConfig
from tests.support.ranges import RangeServer

BODY = bytes(range(256)) * 4000
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(osm_download, "POLICY", Policy(connections=1, retries=1, backoff_s=0.001))
    sums = {"/a.md5": f"{MD5.upper()} *a.osm.pbf\n".encode(), "/page.md5": b"<html>"}
    with RangeServer({"/a.osm.pbf": BODY, "/page.osm.pbf": b"<html>"} | sums).running() as running:
        yield running


def test_a_published_checksum_may_be_upper_case(tmp_path, server, capsys):
    extract = OsmConfig(url=server.url("/a.osm.pbf"), checksum_url=server.url("/a.md5"))
    download_extract(extract, tmp_path / "a.osm.pbf", log=Log())
    assert [path.name for path in tmp_path.iterdir()] == ["a.osm.pbf"]
    assert (tmp_path / "a.osm.pbf").read_bytes() == BODY
    assert f"sha256 {hashlib.sha256(BODY).hexdigest()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "check", "message"),
    [
        ("/none.osm.pbf", {"md5": MD5}, r"none\.osm\.pbf: the server answered HTTP 404; check the url"),
        ("/none.osm.pbf?key=${OSM_KEY}", {"md5": MD5}, r"key=\$\{OSM_KEY\}: the server answered HTTP 404"),
        ("/a.osm.pbf?key=${NO_KEY}", {"md5": MD5}, "the environment variable NO_KEY .* is not set"),
        ("/page.osm.pbf", {"md5": MD5}, rf"page\.osm\.pbf: its md5 is \w+, not the expected {MD5}; it was deleted"),
        ("/page.osm.pbf", {"sha256": 2 * MD5}, rf"its sha256 is \w+, not the expected {2 * MD5}"),
        ("/a.osm.pbf", {"checksum_url": "/page.md5"}, r"page\.md5: does not open with an md5 or a sha256"),
        ("/a.osm.pbf", {"checksum_url": "/none.md5"}, r"none\.md5: the server answered HTTP 404"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(tmp_path, server, monkeypatch, path, check, message):
    monkeypatch.setenv("OSM_KEY", "s3cr3t")
    if "checksum_url" in check:
        check = {"checksum_url": server.url(check["checksum_url"])}
    extract = OsmConfig(url=server.url(path), **check)
    with pytest.raises(DownloadError, match=message) as caught:
        download_extract(extract, tmp_path / extract.file_name, log=Log())
    assert "\n" not in str(caught.value) and "s3cr3t" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
