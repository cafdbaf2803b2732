"""Options: what is accepted, what is mapped, what is refused and with which hint."""

from __future__ import annotations

import pathlib

import pytest
import torch

from headrace.compiler.options import MODES, Options, read
from headrace.errors import UnknownOption


def test_nothing_given_means_the_defaults() -> None:
    assert read(None, None) == Options()


def test_own_keys_are_taken() -> None:
    found = read(
        None, {"strict": True, "budget": 5, "claim": "attention+gemm", "database": pathlib.Path("x.db")}
    )
    assert found == Options(strict=True, budget=5.0, claim="attention+gemm", database="x.db")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"strikt": True}, "'strict'"),
        ({"tunning": "off"}, "'tuning'"),
        ({"inductor.max_autotun": True}, "'max_autotune'"),
        ({"max_autotun": True}, "'max_autotune'"),
        ({"tuning": "repaly"}, "'replay'"),
        ({"target": "gpu"}, "'cpu'"),
        ({"claim": "attention+gem"}, "'gemm'"),
        ({"strict": "yes"}, "bool"),
        ({"budget": True}, "int or float"),
        ({"budget": -1}, "seconds"),
        ({"budget": float("nan")}, "seconds"),
    ],
)
def test_a_mistake_is_refused_with_the_nearest_known_word(options: dict[str, object], hint: str) -> None:
    with pytest.raises(UnknownOption, match=hint):
        read(None, options)


def test_names_that_only_inductor_knows_are_passed_on() -> None:
    found = read(None, {"max_autotune": True, "inductor.epilogue_fusion": False, "triton.cudagraphs": False})
    assert dict(found.inductor) == {
        "max_autotune": True,
        "epilogue_fusion": False,
        "triton.cudagraphs": False,
    }


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_means_to_inductor_what_it_always_means(mode: str) -> None:
    assert dict(read(mode, None).inductor) == dict(torch._inductor.list_mode_options(mode))


def test_max_autotune_also_tunes_unless_told_otherwise() -> None:
    assert read("max-autotune", None).tuning == "tune"
    assert read("max-autotune", None, base=Options(tuning="off")).tuning == "off"


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(UnknownOption, match="'max-autotune'"):
        read("max-autotun", None)


def test_only_what_changes_the_graph_enters_the_cache_key() -> None:
    assert Options(tuning="tune", budget=1.0, strict=True).fingerprint == Options().fingerprint
    assert Options(claim="all").fingerprint != Options().fingerprint


def test_a_mistake_reaches_the_user_of_torch_compile() -> None:
    from headrace.compiler.backend import backend

    compiled = torch.compile(lambda x: x + 1, backend=backend, options={"strikt": True})
    with pytest.raises(Exception, match="did you mean 'strict'"):
        compiled(torch.ones(3))


@pytest.mark.parametrize(
    ("target", "delegated"), [("auto", False), ("cpu", False), ("cuda", True), ("hip", True)]
)
def test_a_target_claims_only_graphs_whose_tensors_are_on_it(target: str, delegated: bool) -> None:
    from headrace.compiler.resolve import why_delegate

    why = why_delegate(Options(target=target), [torch.ones(2)])
    assert ("tensors are on cpu" in (why or "")) is delegated
