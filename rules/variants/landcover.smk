# REQUIRED INPUTS  data/<region>/chips, splits/<split>.parquet
# OUTPUTS          results/runs/landcover.<hash>/: run.json, confusion.parquet, predictions/


rule landcover:
    """The land-cover raster itself as the prediction. Needs: chips and split. Gives: counts per chip and test predictions."""
    input:
        data=baseline_data("landcover"),
        code=baseline_code("landcover"),
    output:
        facts="results/runs/landcover.{hash}/run.json",
        confusion="results/runs/landcover.{hash}/confusion.parquet",
        predictions=directory("results/runs/landcover.{hash}/predictions"),
    log:
        "logs/landcover/{hash}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        spec=baseline_spec("landcover"),
    shell:
        "python {ROOT:q}/scripts/predict_baseline.py --run landcover.{wildcards.hash:q} --spec {params.spec:q} --data data "
        "--out results/runs/landcover.{wildcards.hash:q} --log {log:q}"
