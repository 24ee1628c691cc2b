# REQUIRED INPUTS  data/<region>/imagery/<provider>/*.tif, labels/<recipe>/*.tif, landcover/<source>.tif
# OUTPUTS          data/<region>/chips/<store>/, data/<region>/splits/<split>.parquet + .json + .png


rule cut_chips:
    """Pack a region's rasters into chips. Needs: rasters of one source. Gives: a packed store with its index."""
    input:
        grid="data/{region}/grid.json",
        rasters=chip_inputs,
        code=code("cut_chips"),
    output:
        manifest="data/{region}/chips/{store}/store.json",
        index="data/{region}/chips/{store}/index.parquet",
        chips="data/{region}/chips/{store}/chips.npy",
        valid="data/{region}/chips/{store}/valid.npy",
    log:
        "logs/cut_chips/{region}/{store}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        region=region_json("classes", "chips", "truth"),
    shell:
        "python {ROOT:q}/scripts/cut_chips.py --region {wildcards.region:q} --store {wildcards.store:q} "
        "--grid {input.grid:q} --out data/{wildcards.region:q}/chips/{wildcards.store:q} --log {log:q}"


rule split_region:
    """Assign ground to train, val and test. Needs: chips. Gives: blocks, what each split holds, a picture."""
    input:
        grid="data/{region}/grid.json",
        stores=split_inputs,
        code=code("split_region"),
    output:
        blocks="data/{region}/splits/{split}.parquet",
        facts="data/{region}/splits/{split}.json",
        picture="data/{region}/splits/{split}.png",
    log:
        "logs/split_region/{region}/{split}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        split=split_json,
    shell:
        "python {ROOT:q}/scripts/split_region.py --region {wildcards.region:q} --split {wildcards.split:q} "
        "--grid {input.grid:q} --out {output.blocks:q} --picture {output.picture:q} --log {log:q}"
