# REQUIRED INPUTS  data/<region>/chips, splits/<split>.parquet
# OUTPUTS          results/runs/random_forest.<hash>/: run.json, confusion.parquet, predictions/


rule random_forest:
    """A random forest on single pixels. Needs: chips and split. Gives: counts per chip and test predictions."""
    input:
        data=baseline_data("random_forest"),
        code=baseline_code("random_forest"),
    output:
        facts="results/runs/random_forest.{hash}/run.json",
        confusion="results/runs/random_forest.{hash}/confusion.parquet",
        predictions=directory("results/runs/random_forest.{hash}/predictions"),
    log:
        "logs/random_forest/{hash}.log",
    conda:
        "../../envs/pipeline.yaml"
    params:
        spec=baseline_spec("random_forest"),
    shell:
        "python {ROOT:q}/scripts/predict_baseline.py --run random_forest.{wildcards.hash:q} --spec {params.spec:q} --data data "
        "--out results/runs/random_forest.{wildcards.hash:q} --log {log:q}"
