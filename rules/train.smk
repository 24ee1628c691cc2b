# REQUIRED INPUTS  data/<region>/chips/<imagery>, chips/<recipe>, splits/<split>.parquet
# OUTPUTS          results/runs/<run>/: run.json, history.csv, checkpoints/, then metrics.json, confusion.parquet, predictions/


rule train:
    """Train one run. Needs: chips and split. Gives: the two best checkpoints and the history."""
    input:
        data=run_data,
        code=run_code("train"),
    output:
        facts="results/runs/{run}/run.json",
        history="results/runs/{run}/history.csv",
        checkpoints=directory("results/runs/{run}/checkpoints"),
    log:
        "logs/train/{run}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: train_threads
    resources:
        gpu=run_devices,
    params:
        spec=spec_json,
    shell:
        "python {ROOT:q}/scripts/train.py --run {wildcards.run:q} --spec {params.spec:q} --data data "
        "--out results/runs/{wildcards.run:q} --work work/{wildcards.run:q} --engine {ENGINE:q} --log {log:q}"


rule evaluate:
    """Score one run on val and test. Needs: its checkpoints. Gives: counts per chip, metrics, test predictions."""
    input:
        data=run_data,
        facts="results/runs/{run}/run.json",
        checkpoints="results/runs/{run}/checkpoints",
        code=run_code("evaluate"),
    output:
        metrics="results/runs/{run}/metrics.json",
        confusion="results/runs/{run}/confusion.parquet",
        predictions=directory("results/runs/{run}/predictions"),
    log:
        "logs/evaluate/{run}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: run_threads
    resources:
        gpu=1,
    shell:
        "python {ROOT:q}/scripts/evaluate.py --run results/runs/{wildcards.run:q} --data data "
        "--work work/{wildcards.run:q} --engine {ENGINE:q} --log {log:q}"
