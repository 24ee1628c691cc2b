# REQUIRED INPUTS  none
# OUTPUTS          results/figures/<figure>.png: ResUNet-a's figures 3, 4 and 5
FIGURES = ("dice-gradient-flow", "tanimoto-complement", "dice-family-gradients")


rule gradient_flow:
    """Draw where the losses of the Dice family lead, from the losses themselves. Needs: nothing. Gives: one figure."""
    input:
        code=code("gradient_flow"),
    output:
        "results/figures/{figure}.png",
    log:
        "logs/gradient_flow/{figure}.log",
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../envs/pipeline.yaml"
    shell:
        "python {ROOT:q}/scripts/gradient_flow.py --figure {wildcards.figure:q} --out {output:q} --log {log:q}"
