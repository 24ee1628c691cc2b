"""The whole Frankfurt region in a dry run: how many jobs of which rule, before anything is fetched."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.frankfurt import REGION, STORES, dry_run, set_zoom
from tests.support.project import Project

pytestmark = pytest.mark.workflow

RECIPES, PROVIDERS = 4, 2


@pytest.mark.parametrize(
    ("zoom", "shards"), [(17, 7 * 9), (18, 14 * 17)]
)  # of 8,192 px over 55,101 × 68,044 px, twice that
def test_a_dry_run_counts_the_jobs_of_all_variants(unbuilt: Project, zoom: int, shards: int) -> None:
    with unbuilt.edited(REGION, lambda text: text + "\n"):  # edited: put back afterwards
        set_zoom(unbuilt.folder, zoom)
        found = dry_run(unbuilt.folder).jobs
    wanted = {
        "define_grid": 1,
        "plan_region": 1,
        "download_imagery": PROVIDERS * shards,
        "download_extract": 2,
        "extract_osm": 1,
        "warp_landcover": 2,
        "rasterize_labels": RECIPES * shards,
        "cut_chips": len(STORES),
        "split_region": 2,
    }
    assert found == wanted | {"total": sum(wanted.values())}


def test_no_download_starts_before_the_terms_are_accepted(unbuilt: Project) -> None:
    grid = unbuilt.snakemake("--cores", "1", "data/frankfurt/grid.json")
    assert grid.status == 0
    target = "data/frankfurt/imagery/bing/r00c00.json"
    done = unbuilt.snakemake("--cores", "1", target, status=1)
    assert "imagery 'bing' is off" in done.text and "accept_terms: true" in done.text
    assert not unbuilt.path(target).exists() and not unbuilt.path("cache/frankfurt").exists()


def test_each_variant_takes_what_its_recipe_names(unbuilt: Project) -> None:
    """The label jobs wait for their own land cover, and all of them for the OSM layers."""
    covers = {"initial": "old", "bing_old": "old", "bing_new": "new", "google_new": "new"}
    place = "data/frankfurt"
    jobs = unbuilt.jobs(*(f"{place}/labels/{recipe}/r00c00.tif" for recipe in covers))
    painted = {job.wildcards["recipe"]: set(job.inputs) for job in jobs if job.rule == "rasterize_labels"}
    assert painted.keys() == covers.keys()
    for recipe, inputs in painted.items():
        found = {name for name in inputs if name.startswith(f"{place}/landcover/")}
        assert found == {f"{place}/landcover/{covers[recipe]}.tif"} and f"{place}/osm/layers.gpkg" in inputs


def test_the_study_resolves_to_four_runs_and_a_report(unbuilt: Project) -> None:
    """Two losses on two splits, no job of another region; Bing's imagery and Google's, since a split counts both."""
    jobs = unbuilt.jobs("results/studies/frankfurt/report.html")
    counted = Counter(job.rule for job in jobs)
    assert (counted["train"], counted["evaluate"], counted["split_region"]) == (4, 4, 2)
    assert {job.wildcards["recipe"] for job in jobs if job.rule == "rasterize_labels"} == {"bing_old"}
    assert {job.wildcards.get("region", "frankfurt") for job in jobs} == {"frankfurt"}


def test_the_small_open_regions_are_complete(unbuilt: Project) -> None:
    """From address to split: all jobs are there, and the plan says that nothing is off."""
    regions = {"edersee": 4, "calvi": 1}  # region → shards
    jobs = Counter(
        (job.rule, job.wildcards["region"])
        for job in unbuilt.jobs(*(f"data/{region}/splits/blocks.parquet" for region in regions))
    )
    once = ("define_grid", "download_extract", "extract_osm", "warp_landcover", "split_region")
    for region, shards in regions.items():
        found = {rule: count for (rule, name), count in jobs.items() if name == region}
        wanted = dict.fromkeys(once, 1) | dict.fromkeys(("download_imagery", "rasterize_labels"), shards)
        assert found == wanted | {"cut_chips": 2}
    done = unbuilt.snakemake("--cores", "2", *(f"data/{region}/plan.md" for region in regions))
    assert "warning" not in done.text and "is off" not in done.text
