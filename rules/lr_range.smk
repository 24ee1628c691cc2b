# REQUIRED INPUTS  data/<region>/chips/<imagery>, chips/<recipe>, splits/<split>.parquet
# OUTPUTS          results/lr_range/<run>/: curve.csv, lr_range.png, summary.json
# --config lr_low=1e-6 lr_high=1 sets the lowest and the highest rate.


rule lr_range_test:
    """Grow the learning rate over an epoch of a run's batches. Needs: chips and split. Gives: a suggested rate."""
    input:
        data=run_data,
        code=run_code("lr_range_test"),
    output:
        curve="results/lr_range/{run}/curve.csv",
        figure="results/lr_range/{run}/lr_range.png",
        summary="results/lr_range/{run}/summary.json",
    log:
        "logs/lr_range_test/{run}.log",
    conda:
        "../envs/pipeline.yaml"
    threads: run_threads
    resources:
        gpu=1,
    params:
        spec=spec_json,
        low=config.get("lr_low", 1e-7),
        high=config.get("lr_high", 10),
    shell:
        "python {ROOT:q}/scripts/lr_range_test.py --run {wildcards.run:q} --spec {params.spec:q} --data data "
        "--out results/lr_range/{wildcards.run:q} --work work/lr_range/{wildcards.run:q} --low {params.low:q} "
        "--high {params.high:q} --engine {ENGINE:q} --log {log:q}"
