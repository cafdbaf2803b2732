"""Run units of the campaign in this process: ``python campaign_worker.py RESULTS PLAN``.

``PLAN`` is a JSON list of unit names; a name ``generated:N:SEED`` stands for N kernels that hypothesis
writes, ``flow:N:SEED`` and ``folds:N:SEED`` for N that are drawn from SEED on, ``op:K`` for sample K of the
operation table. Every unit is announced in ``RESULTS`` (a JSON object
per line) before it runs, so that a crash names it. A process of its own, since a miscompiled kernel may
take the process with it.
"""

from __future__ import annotations

import faulthandler
import json
import pathlib
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator

Say = Callable[..., None]


def main(results: pathlib.Path, names: list[str]) -> None:
    faulthandler.enable()
    warnings.simplefilter("ignore")  # Triton's deprecations: what is deprecated is tested too
    import campaign_families
    import campaign_flow
    import campaign_folds
    import campaign_generated
    import campaign_ops
    from campaign_core import Unit, Verdict, judge

    units = campaign_families.by_name()
    drawn = {"flow": campaign_flow.unit, "folds": campaign_folds.unit}
    with results.open("a") as out, tempfile.TemporaryDirectory() as folder:

        def say(**what: object) -> None:
            out.write(json.dumps(what) + "\n")
            out.flush()

        def run(unit: Unit) -> Iterator[Verdict]:
            say(start=unit.name, text=unit.text)
            for verdict in judge(unit, pathlib.Path(folder)):
                say(case=verdict.case, status=verdict.status, detail=verdict.detail)
                yield verdict

        for name in names:
            try:
                if name.startswith("op:"):
                    say(start=name)
                    verdict = campaign_ops.judge_sample(int(name.removeprefix("op:")))
                    say(case=verdict.case, status=verdict.status, detail=verdict.detail)
                elif name.startswith("generated:"):
                    _, count, seed = name.split(":")
                    campaign_generated.explore(run, int(count), int(seed))
                elif ":" in name:
                    which, count, seed = name.split(":")
                    for number in range(int(seed), int(seed) + int(count)):
                        for _ in run(drawn[which](number)):
                            pass
                else:
                    for _ in run(units[name]):
                        pass
            except Exception:
                say(case=name, status="error", detail=traceback.format_exc(limit=-4))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text()))
