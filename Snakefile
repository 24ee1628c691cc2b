# From raw maps to a paper's comparison table. Targets: results/studies/<study>/report.html of the studies in
# config/config.yaml; name one on the command line to build it alone. No logic here: rules/common.smk and rules/region.smk
# hold the Python.
include: "rules/common.smk"
include: "rules/region.smk"
include: "rules/demo.smk"
include: "rules/acquire.smk"
include: "rules/labels.smk"
include: "rules/dataset.smk"
include: "rules/train.smk"
include: "rules/lr_range.smk"
include: "rules/report.smk"
include: "rules/figures.smk"


for variant in sorted(VARIANT_RULES):

    include: variant


localrules:
    all,
    dataset,
    runs,


rule all:
    """Every study of config/config.yaml."""
    default_target: True
    input:
        expand("results/studies/{study}/report.html", study=STUDIES),


rule dataset:
    """Chips and splits of every study: DVC's first milestone."""
    input:
        dataset_files(STUDIES),


rule runs:
    """Every run of every study, scored: DVC's second milestone."""
    input:
        run_files(STUDIES),
