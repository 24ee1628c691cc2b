"""OpenStreetMap extracts from the web: fetched once, gone on with after a kill, and checked before they are used."""

from __future__ import annotations

from pathlib import Path

from pipeline.acquire.fetch import Fetcher
from pipeline.acquire.http import Policy
from pipeline.command import Log
from pipeline.errors import ConfigError, choices
from pipeline.schema import OsmConfig, RegionConfig

POLICY = Policy(connections=1, retries=8)


def download_extract(extract: OsmConfig, out: Path, *, log: Log) -> None:
    """Bring the extract to `out`; below ``<out>.part`` until it is whole and hashes to what the config says.

    Raises:
        DownloadError: the server refuses or fails too often, or the checksum is another one; `out` is not there.
    """
    with Fetcher(f"extract {extract.file_name}", POLICY, log) as fetcher:
        done = fetcher.download(
            str(extract.url), out, sha256=extract.sha256, md5=extract.md5, checksum_url=extract.checksum_url
        )
        log(f"{out.name}: {done.size_bytes / 1e6:.1f} MB from {fetcher.public(str(extract.url))}, sha256 {done.sha256}")


def extract_of(region: RegionConfig, name: str) -> OsmConfig:
    """The region's extract with a url that is called `name`; ConfigError when there is none."""
    by_name = {extract.file_name: extract for extract in region.osm_extracts if extract.url is not None}
    if name not in by_name:
        raise ConfigError(f"the region downloads no OSM extract {name!r}; {choices(name, by_name)}")
    return by_name[name]
