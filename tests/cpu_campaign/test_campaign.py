"""The differential campaign: vector lowering, reference lowering and an independent oracle, case by case.

A seeded sample runs by default, everything with ``-m soak``. To run one unit by hand, with its verdicts in
FILE: ``echo '["elementwise/i32/0"]' > PLAN; python campaign_worker.py FILE PLAN``.
"""

from __future__ import annotations

import pathlib
import textwrap

import campaign_runner
import pytest
from campaign_core import sample
from campaign_families import FAMILIES, family
from campaign_runner import Outcome

from headrace.codegen.cpu import target

pytestmark = pytest.mark.skipif(
    target.host().vector_bits < 256 or not target.host().is_x86,
    reason="the vector lowering needs AVX2 or AVX-512",
)

SEED = 2026
PER_FAMILY = 24  # cases of each family in the sample
# Kernels of each generator, in the sample and at length.
GENERATED = {"generated": (12, 320), "flow": (4, 400), "folds": (8, 600)}


def sampled(name: str) -> list[str]:
    return [u.name for u in sample(family(name), PER_FAMILY, SEED)]


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    names = [unit for name in FAMILIES for unit in sampled(name)]
    names += [f"{generator}:{count}:{SEED}" for generator, (count, _) in GENERATED.items()]
    return campaign_runner.run(names, tmp_path_factory.mktemp("campaign"))


@pytest.mark.parametrize("name", [*FAMILIES, *GENERATED])
def test_lowerings_and_oracle_agree_on_a_sample(name: str, outcome: Outcome) -> None:
    prefixes = (f"{name}/",) if name in GENERATED else tuple(sampled(name))
    assert not [w for w in outcome.wrong if w.startswith(prefixes)]
    judged = [s for case, s in outcome.statuses.items() if case.startswith(prefixes)]
    assert len(judged) >= min(
        PER_FAMILY, sum(u.cases for u in family(name)) if name in FAMILIES else PER_FAMILY
    )
    assert set(judged) == {"ok"}


def test_nothing_else_went_wrong_in_the_sample(outcome: Outcome) -> None:
    assert outcome.wrong == []
    assert set(outcome.statuses.values()) == {"ok"}


def test_the_campaign_has_the_size_that_it_claims(outcome: Outcome) -> None:
    assert len(outcome.statuses) >= 300
    assert sum(u.cases for name in FAMILIES for u in family(name)) >= 1500
    names = [u.name for name in FAMILIES for u in family(name)]
    assert len(names) == len(set(names))


def test_the_sample_is_the_same_every_time() -> None:
    assert sampled("reduce") == sampled("reduce")


def test_a_unit_that_ends_its_process_is_named_and_the_rest_is_run(tmp_path: pathlib.Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        textwrap.dedent("""
            import json, os, sys
            with open(sys.argv[1], "a") as out:
                for name in json.load(open(sys.argv[2])):
                    print(json.dumps({"start": name}), file=out, flush=True)
                    if name == "b":
                        os.abort()
                    print(json.dumps({"case": name, "status": "ok", "detail": ""}), file=out, flush=True)
        """)
    )
    outcome = campaign_runner.run(["a", "b", "c"], tmp_path, worker=worker)
    assert outcome.statuses == {"a": "ok", "c": "ok"}
    assert len(outcome.wrong) == 1
    assert outcome.wrong[0].startswith("b ended its process with -6")


@pytest.mark.soak
@pytest.mark.parametrize("name", list(FAMILIES))
def test_lowerings_and_oracle_agree(name: str, tmp_path: pathlib.Path) -> None:
    outcome = campaign_runner.run([u.name for u in family(name)], tmp_path)
    assert outcome.wrong == []
    assert len(outcome.statuses) == sum(u.cases for u in family(name))


@pytest.mark.soak
@pytest.mark.parametrize("generator", list(GENERATED))
def test_lowerings_and_oracle_agree_on_generated_kernels(generator: str, tmp_path: pathlib.Path) -> None:
    count = GENERATED[generator][1]
    outcome = campaign_runner.run([f"{generator}:{count}:7"], tmp_path)
    assert outcome.wrong == []
    assert len(outcome.statuses) >= 2 * count
