# REQUIRED INPUTS  none
# OUTPUTS          data/demo/source/: an OSM extract, a land cover, the truth, tiles of two providers


rule make_demo:
    """Generate the sources of the demo region from its seed, as real ones would be."""
    input:
        code=code("make_demo"),
    output:
        summary="data/demo/source/summary.json",
        osm="data/demo/source/demo.osm.pbf",
        landcover="data/demo/source/landcover.tif",
        truth="data/demo/source/truth.tif",
        tiles=directory("data/demo/source/tiles"),
    log:
        "logs/make_demo.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        seed=demo_seed,
    shell:
        "python {ROOT:q}/scripts/make_demo.py --seed {params.seed:q} --out data/demo/source --log {log:q}"
