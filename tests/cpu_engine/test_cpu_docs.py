"""The page ``docs/triton-on-your-cpu.md``: its example runs as it stands, its links lead somewhere."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = DOCS / "triton-on-your-cpu.md"


def test_the_example_runs_as_is(tmp_path: pathlib.Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    path = tmp_path / "example.py"
    path.write_text(example + "assert torch.equal(o, x + y)\nprint('equal')\n")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout == "equal\n"


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", PAGE.read_text())
    assert links
    assert [name for name in links if not (DOCS / name).exists()] == []
