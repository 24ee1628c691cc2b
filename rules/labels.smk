# REQUIRED INPUTS  data/<region>/grid.json, osm/layers.gpkg, landcover/<source>.tif
# OUTPUTS          data/<region>/labels/<recipe>/<shard>.tif, <shard>_source.tif, <shard>_stats.json


rule rasterize_labels:
    """Burn the recipe of one shard. Needs: OSM layers, land cover. Gives: classes, the source of each, statistics."""
    input:
        grid="data/{region}/grid.json",
        layers=osm_inputs,
        landcover=landcover_inputs,
        code=code("rasterize_labels"),
    output:
        classes="data/{region}/labels/{recipe}/{shard}.tif",
        source="data/{region}/labels/{recipe}/{shard}_source.tif",
        stats="data/{region}/labels/{recipe}/{shard}_stats.json",
    log:
        "logs/rasterize_labels/{region}/{recipe}/{shard}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        recipe=recipe_json,
    shell:
        "python {ROOT:q}/scripts/rasterize_labels.py --region {wildcards.region:q} --recipe {wildcards.recipe:q} "
        "--shard {wildcards.shard:q} --grid {input.grid:q} --out {output.classes:q} --source {output.source:q} "
        "--stats {output.stats:q} --log {log:q}"
