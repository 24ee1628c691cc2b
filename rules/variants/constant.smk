# REQUIRED INPUTS  data/<region>/chips, splits/<split>.parquet
# OUTPUTS          results/runs/constant.<hash>/: run.json, confusion.parquet, predictions/


rule constant:
    """One class everywhere. Needs: chips and split. Gives: counts per chip and test predictions."""
    input:
        data=baseline_data("constant"),
        code=baseline_code("constant"),
    output:
        facts="results/runs/constant.{hash}/run.json",
        confusion="results/runs/constant.{hash}/confusion.parquet",
        predictions=directory("results/runs/constant.{hash}/predictions"),
    log:
        "logs/constant/{hash}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        spec=baseline_spec("constant"),
    shell:
        "python {ROOT:q}/scripts/predict_baseline.py --run constant.{wildcards.hash:q} --spec {params.spec:q} --data data "
        "--out results/runs/constant.{wildcards.hash:q} --log {log:q}"
