# REQUIRED INPUTS  data/<region>/grid.json, osm/layers.gpkg, landcover/<source>.tif
# OUTPUTS          data/<region>/labels/<recipe>/<shard>.tif, <shard>_source.tif, <shard>_stats.json, summary.json, distribution.png,
#                  comparisons/<recipe>-<recipe or truth>/confusion.csv, confusion.png, summary.json, side_by_side.png


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
    threads: 1
    resources:
        mem_mb=1500,
    params:
        recipe=recipe_json,
    shell:
        "python {ROOT:q}/scripts/rasterize_labels.py --region {wildcards.region:q} --recipe {wildcards.recipe:q} "
        "--shard {wildcards.shard:q} --grid {input.grid:q} --out {output.classes:q} --source {output.source:q} "
        "--stats {output.stats:q} --threads {threads} --log {log:q}"


rule summarize_labels:
    """Add up a recipe's shards. Needs: their statistics. Gives: shares of classes and sources, areas, a picture."""
    input:
        grid="data/{region}/grid.json",
        stats=label_stats("recipe"),
        code=code("summarize_labels"),
    output:
        summary="data/{region}/labels/{recipe}/summary.json",
        picture="data/{region}/labels/{recipe}/distribution.png",
    log:
        "logs/summarize_labels/{region}/{recipe}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        recipe=recipe_json,
    shell:
        "python {ROOT:q}/scripts/summarize_labels.py --region {wildcards.region:q} --recipe {wildcards.recipe:q} "
        "--grid {input.grid:q} --out {output.summary:q} --picture {output.picture:q} --log {log:q}"


rule compare_labels:
    """Compare two recipes, or one with the truth. Needs: their labels. Gives: confusion counts, shares, pictures."""
    input:
        grid="data/{region}/grid.json",
        labels=label_stats("recipe"),
        other=other_labels,
        imagery=pictured_imagery,
        code=code("compare_labels"),
    output:
        counts="data/{region}/comparisons/{recipe}-{other}/confusion.csv",
        summary="data/{region}/comparisons/{recipe}-{other}/summary.json",
        heat="data/{region}/comparisons/{recipe}-{other}/confusion.png",
        picture="data/{region}/comparisons/{recipe}-{other}/side_by_side.png",
    log:
        "logs/compare_labels/{region}/{recipe}-{other}.log",
    wildcard_constraints:
        other=r"[a-z0-9_]+",
    conda:
        "../envs/pipeline.yaml"
    params:
        region=region_json("classes"),
        imagery=pictured_provider,
    shell:
        "python {ROOT:q}/scripts/compare_labels.py --region {wildcards.region:q} --a {wildcards.recipe:q} "
        "--b {wildcards.other:q} --imagery={params.imagery:q} --grid {input.grid:q} "
        "--out data/{wildcards.region:q}/comparisons/{wildcards.recipe:q}-{wildcards.other:q} --log {log:q}"
