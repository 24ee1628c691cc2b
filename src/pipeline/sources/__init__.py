"""Kinds of imagery sources: one file per kind, file name = `kind` in a region's `imagery`.

A file defines ``class Source(TiledSource)`` (images asked for by address) or ``class Source(WindowedSource)`` (files
read by window), see `pipeline.sources._base`. It says what the config may say and where pixels lie; fetching, caching
and writing are the business of `pipeline.acquire`. Light: no GDAL, no HTTP client.
"""
