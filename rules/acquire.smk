# REQUIRED INPUTS  config/regions/<region>.yaml and the files or services it names
# OUTPUTS          data/<region>/grid.json, plan.json + plan.md,
#                  imagery/<provider>/<shard>.tif + .json + _tiles.csv, osm/layers.gpkg, landcover/<source>.tif


rule define_grid:
    """Write the region's pixel grid. Needs: the config, or the header of a raster. Gives: grid.json."""
    input:
        raster=grid_input,
        code=code("define_grid"),
    output:
        "data/{region}/grid.json",
    log:
        "logs/define_grid/{region}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        region=region_json("bbox", "grid", "shard_px"),
    shell:
        "python {ROOT:q}/scripts/define_grid.py --region {wildcards.region:q} --out {output:q} --log {log:q}"


rule plan_region:
    """Count what a region will cost. Needs: the config, the grid. Gives: plan.json, and plan.md to read."""
    input:
        grid="data/{region}/grid.json",
        code=code("plan_region"),
    output:
        plan="data/{region}/plan.json",
        page="data/{region}/plan.md",
    log:
        "logs/plan_region/{region}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        region=region_json("title", "imagery", "osm", "landcover", "chips"),
        recipes=plan_recipes,
    shell:
        "python {ROOT:q}/scripts/plan_region.py --region {wildcards.region:q} --grid {input.grid:q} --out {output.plan:q} "
        "--page {output.page:q} --log {log:q}"


rule download_imagery:
    """Fetch one shard of imagery. Needs: the grid. Gives: a GeoTIFF with a validity mask, its manifest, its tiles."""
    input:
        grid="data/{region}/grid.json",
        source=imagery_input,
        code=code("download_imagery"),
    output:
        raster="data/{region}/imagery/{provider}/{shard}.tif",
        manifest="data/{region}/imagery/{provider}/{shard}.json",
        tiles="data/{region}/imagery/{provider}/{shard}_tiles.csv",
    log:
        "logs/download_imagery/{region}/{provider}/{shard}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        source=imagery_json,
    shell:
        "python {ROOT:q}/scripts/download_imagery.py --region {wildcards.region:q} --provider {wildcards.provider:q} "
        "--shard {wildcards.shard:q} --grid {input.grid:q} --out {output.raster:q} --manifest {output.manifest:q} "
        "--tiles {output.tiles:q} --log {log:q}"


rule download_extract:
    """Download an OSM extract and check it. Needs: a url, a checksum. Gives: the .osm.pbf; edited code keeps it."""
    output:
        "data/{region}/osm/{file}.osm.pbf",
    log:
        "logs/download_extract/{region}/{file}.log",
    wildcard_constraints:
        file=r"[^/]+",
    conda:
        "../envs/pipeline.yaml"
    params:
        extract=extract_json,
    shell:
        "python {ROOT:q}/scripts/download_extract.py --region {wildcards.region:q} --out {output:q} --log {log:q}"


rule extract_osm:
    """Clip the OSM extracts and split them into layers. Needs: .osm.pbf, the grid. Gives: layers, what was lost."""
    input:
        grid="data/{region}/grid.json",
        pbf=osm_files,
        code=code("extract_osm"),
    output:
        layers="data/{region}/osm/layers.gpkg",
        summary="data/{region}/osm/summary.json",
    log:
        "logs/extract_osm/{region}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        pbf=osm_paths,
    shell:
        "python {ROOT:q}/scripts/extract_osm.py --region {wildcards.region:q} --pbf {params.pbf:q} --grid {input.grid:q} "
        "--out {output.layers:q} --summary {output.summary:q} --log {log:q}"


rule warp_landcover:
    """Bring a land cover onto the grid, as classes. Needs: the grid. Gives: a class raster and its shares."""
    input:
        grid="data/{region}/grid.json",
        source=landcover_input,
        code=code("warp_landcover"),
    output:
        raster="data/{region}/landcover/{source}.tif",
        summary="data/{region}/landcover/{source}.json",
    log:
        "logs/warp_landcover/{region}/{source}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        source=landcover_json,
    shell:
        "python {ROOT:q}/scripts/warp_landcover.py --region {wildcards.region:q} --source {wildcards.source:q} "
        "--grid {input.grid:q} --out {output.raster:q} --summary {output.summary:q} --log {log:q}"
