# REQUIRED INPUTS  results/runs/*/confusion.parquet, metrics.json, run.json, predictions/; data/<region>/splits, chips
# OUTPUTS          results/studies/<study>/: measures/, table.csv, table.md, summary.csv, intervals.csv, paired.csv, metrics.json, curves.csv,
#                  prediction.tif, figures/, report.html


rule measure_run:
    """Compute a study's further metrics for one run. Needs: its counts and predictions. Gives: measures/<run>.json."""
    input:
        run=lambda wildcards: run_outputs(
            find_run(wildcards.measured, [wildcards.study])
        ),
        predictions="results/runs/{measured}/predictions",
        data=lambda wildcards: data_inputs(spec_of(wildcards.measured)),
        code=measure_code,
    output:
        "results/studies/{study}/measures/{measured}.json",
    log:
        "logs/measure_run/{study}/{measured}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        measures=measure_digest,
    shell:
        "python {ROOT:q}/scripts/measure_run.py --study {wildcards.study:q} --run {wildcards.measured:q} --out {output:q} "
        "--log {log:q}"


rule compare_runs:
    """Gather a study's runs in one table. Needs: their counts. Gives: tables, intervals and what DVC shows."""
    input:
        runs=study_runs,
        measures=study_measures,
        blocks=study_blocks,
        truth=study_truth,
        code=code("compare_runs"),
    output:
        table="results/studies/{study}/table.csv",
        markdown="results/studies/{study}/table.md",
        summary="results/studies/{study}/summary.csv",
        intervals="results/studies/{study}/intervals.csv",
        paired="results/studies/{study}/paired.csv",
        metrics="results/studies/{study}/metrics.json",
        curves="results/studies/{study}/curves.csv",
    log:
        "logs/compare_runs/{study}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        study=study_digest,
    shell:
        "python {ROOT:q}/scripts/compare_runs.py --study {wildcards.study:q} --out results/studies/{wildcards.study:q} "
        "--log {log:q}"


rule predict_region:
    """Classify the whole region with the study's best run. Needs: table, checkpoints. Gives: a coloured GeoTIFF."""
    input:
        table="results/studies/{study}/table.csv",
        checkpoints=study_checkpoints,
        imagery=study_imagery,
        code=code("predict_region"),
    output:
        "results/studies/{study}/prediction.tif",
    log:
        "logs/predict_region/{study}.log",
    conda:
        "../envs/pipeline.yaml"
    resources:
        gpu=1,
    shell:
        "python {ROOT:q}/scripts/predict_region.py --study {wildcards.study:q} --table {input.table:q} --out {output:q} "
        "--log {log:q}"


rule render_report:
    """Draw the figures and write the page. Needs: table, prediction. Gives: figures/, report.html."""
    input:
        table="results/studies/{study}/table.csv",
        intervals="results/studies/{study}/intervals.csv",
        paired="results/studies/{study}/paired.csv",
        prediction="results/studies/{study}/prediction.tif",
        imagery=study_imagery,
        truth=study_truth,
        code=code("render_report"),
    output:
        report="results/studies/{study}/report.html",
        figures=directory("results/studies/{study}/figures"),
    log:
        "logs/render_report/{study}.log",
    conda:
        "../envs/pipeline.yaml"
    params:
        study=study_digest,
    shell:
        "python {ROOT:q}/scripts/render_report.py --study {wildcards.study:q} --table {input.table:q} "
        "--prediction {input.prediction:q} --figures {output.figures:q} --out {output.report:q} --log {log:q}"
