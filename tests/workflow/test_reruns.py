"""What snakemake would do again after an edit: nothing more and nothing less than what depends on it (dry runs)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.project import Job, Project

pytestmark = pytest.mark.workflow

REPORT = "results/studies/demo/report.html"
STUDY = "config/studies/demo.yaml"
TABLES = {"compare_runs": 1, "predict_region": 1, "render_report": 1}


def rules(jobs: list[Job]) -> dict[str, int]:
    return dict(Counter(job.rule for job in jobs))


def runs_of(jobs: list[Job], rule: str) -> set[str]:
    return {job.wildcards["run"] for job in jobs if job.rule == rule}


def networks(project: Project, wanted: Callable[[dict[str, object]], bool] = lambda _: True) -> set[str]:
    return {run["id"] for run in project.runs("demo") if run["kind"] == "run" and wanted(run["spec"])}


def test_an_edited_loss_trains_only_the_runs_that_use_it(copy: Project) -> None:
    users = networks(copy, lambda spec: spec["loss"]["name"] == "jaccard")  # type: ignore[index]
    assert 0 < len(users) < len(networks(copy))
    with copy.edited("src/pipeline/losses/jaccard.py", lambda text: text + "\nEDITED = True\n"):
        jobs = copy.jobs(REPORT)
    assert runs_of(jobs, "train") == users
    assert runs_of(jobs, "evaluate") == users
    assert rules(jobs) == {"train": len(users), "evaluate": len(users), **TABLES}


def test_a_learning_rate_added_trains_only_the_new_runs(copy: Project) -> None:
    before = networks(copy)
    with copy.edited(STUDY, lambda text: re.sub(r"\blr: ([^,}]+)", r"lr: [\1, 5e-4]", text, count=1)):
        after = networks(copy)
        jobs = copy.jobs(REPORT)
    assert before < after and len(after) == 2 * len(before)
    assert runs_of(jobs, "train") == after - before
    assert rules(jobs) == {"train": len(before), "evaluate": len(before), **TABLES}


def test_an_edited_model_trains_only_the_runs_that_use_it(copy: Project) -> None:
    users = networks(copy, lambda spec: spec["model"]["name"] == "unet")  # type: ignore[index]
    with copy.edited("src/pipeline/models/unet.py", lambda text: text + "\n# edited\n"):
        assert runs_of(copy.jobs(REPORT), "train") == users


def test_white_space_and_comments_in_rules_run_nothing(copy: Project) -> None:
    def respaced(text: str) -> str:
        assert "--data data " in text
        return text.replace("--data data ", "  --data   data ")

    def commented(text: str) -> str:
        return text.replace("    shell:\n", "    # a comment\n    shell:\n")

    with copy.edited("rules/train.smk", respaced), copy.edited("rules/dataset.smk", commented):
        assert copy.jobs(REPORT) == []


def test_edited_report_code_trains_and_scores_nothing(copy: Project) -> None:
    with copy.edited("src/pipeline/report/figures.py", lambda text: text + "\n# edited\n"):
        jobs = copy.jobs(REPORT)
    assert {"render_report"} <= set(rules(jobs)) <= set(TABLES)


def test_two_studies_train_a_shared_run_once(copy: Project) -> None:
    text = copy.path(STUDY).read_text()
    twin = re.sub(r"losses: .*", "losses: [jaccard, {focal: {gamma: 3}}]", text)
    targets = [REPORT, "results/studies/twin/report.html"]
    with copy.added("config/studies/twin.yaml", twin):
        ids = {name: {run["id"] for run in copy.runs(name)} for name in ("demo", "twin")}
        news = copy.jobs(*targets)
        everything = copy.jobs("--forceall", *targets)
    shared = ids["demo"] & ids["twin"]
    assert networks(copy, lambda spec: spec["loss"]["name"] == "jaccard") < shared  # type: ignore[index]
    assert runs_of(news, "train") == ids["twin"] - ids["demo"]
    trained = Counter(job.wildcards["run"] for job in everything if job.rule == "train")
    assert set(trained) == networks(copy) | (ids["twin"] - ids["demo"])
    assert set(trained.values()) == {1}
