"""Run every case in Triton's interpreter and save the tensors: ``python cpu_interpret.py FILE``.

A process of its own: TRITON_INTERPRET is read when a kernel is decorated.
"""

import os
import sys
import traceback

os.environ["TRITON_INTERPRET"] = "1"

import torch
from cpu_case import tensors
from cpu_cases import CASES


def main(path: str) -> None:
    results = {}
    for case in CASES:
        if case.expect is not None:
            continue
        arguments = case.arguments()
        try:
            case.kernel[case.grid](**arguments, **case.meta)
            results[case.name] = tensors(arguments)
        except Exception:
            results[case.name] = traceback.format_exc(limit=-2)
    torch.save(results, path)


if __name__ == "__main__":
    main(sys.argv[1])
