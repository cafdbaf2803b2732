"""`python -m headrace.demo`: a real language model answers on generated kernels; see `--help`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from typing import Any

import torch

from headrace.compiler.cli import tuning
from headrace.compiler.cli.output import Output, seconds
from headrace.demo import show
from headrace.errors import HeadraceError

QUESTION = "Tell me a short story about a river and an old mill."
EPILOGUE = "Run it again: everything above is remembered, and nothing is measured twice."


def main(arguments: list[str] | None = None) -> int:
    """0 when everything was shown, 1 when something is missing, 130 when interrupted."""
    given = _parser().parse_args(arguments)
    out = Output(given.json)
    torch.set_num_threads(given.threads)
    try:
        with torch.no_grad():
            document = Demonstration(out, given).run()
    except HeadraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    out.result(document)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m headrace.demo", description=__doc__)
    parser.add_argument("--question", default=QUESTION, help="what to ask the model")
    parser.add_argument("--tokens", type=int, default=96, help="tokens to generate")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for tuning")
    parser.add_argument("--rounds", type=int, default=40, help="steps of the race against eager and Inductor")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads for everything")
    parser.add_argument("--no-race", action="store_true", help="skip eager and Inductor")
    parser.add_argument("--no-sentences", action="store_true", help="skip the embedding model")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    return parser


class Demonstration:
    """The parts in order; each prints as it goes and adds to the document."""

    def __init__(self, out: Output, given: argparse.Namespace) -> None:
        self.out = out
        self.given = given
        self.document: dict[str, Any] = {"threads": given.threads}

    def run(self) -> dict[str, Any]:
        from headrace.demo.generate import Decoder, chat
        from headrace.demo.language import compiled
        from headrace.demo.models import load_smollm2

        start = time.perf_counter()
        out = self.out
        out.line(f"headrace: torch {torch.__version__}, {self.given.threads} threads")
        out.heading("1. The model")
        loaded = load_smollm2()
        out.line(
            f"{loaded.name}: {loaded.weight_bytes / 2**20:.0f} MiB of dense bfloat16 weights, "
            f"loaded in {seconds(loaded.seconds)}"
        )
        decoder = Decoder(loaded.model, compiled("headrace"))
        prompt = chat(loaded.tokenizer, self.given.question)
        self.compile(decoder, prompt)
        self.tune(decoder, prompt)
        self.answer(decoder, loaded.tokenizer)
        self.decisions()
        if not self.given.no_race:
            self.race(loaded, decoder, prompt)
        if not self.given.no_sentences:
            self.sentences()
        self.document["seconds"] = time.perf_counter() - start
        out.line()
        out.line(f"database: {self.document['database']}")
        out.line(f"{seconds(self.document['seconds'])} in all. {EPILOGUE}")
        return self.document

    def compile(self, decoder: Any, prompt: torch.Tensor) -> None:
        """Compile the prompt's graph and the decode step's, and say what was claimed."""
        from headrace.compiler.backend import listening, records
        from headrace.demo.language import warm

        self.out.heading('2. torch.compile(model, backend="headrace")')
        with listening() as heard:
            spent = warm(decoder, prompt)
        found = [records().find(key) for key in dict.fromkeys(graph.key for graph in heard)]
        self.graphs = tuple(record for record in found if record is not None)
        self.out.line(f"prefill and decode compiled in {seconds(spent)}")
        show.graphs(self.out, self.graphs)
        self.document["graphs"] = [record.as_json() for record in self.graphs]
        self.document["compile_seconds"] = spent

    def tune(self, decoder: Any, prompt: torch.Tensor) -> None:
        """Measure what the database does not know, within the budget."""
        from headrace.compiler.database import open_store
        from headrace.compiler.devices import host_device
        from headrace.compiler.scopes import RUNTIME

        store = open_store(None)
        self.document["database"] = str(store.path) if store is not None and store.path else "in memory"
        self.out.heading(f"3. Tuning, at most {self.given.budget:.0f} s")
        wanted = tuning.tasks(RUNTIME.decisions(), self.graphs, self.times)
        device = host_device()
        missing = tuning.unknown(wanted, store, device) if store is not None else []
        self.document["trials"] = 0
        if missing and store is not None and self.given.budget > 0:
            self.out.line(f"{len(wanted)} operations, {len(missing)} of them not in the database")
            report = tuning.tune(missing, store, device, self.given.budget, self.out)
            tuning.summary(self.out, report)
            self.document["trials"] = report.trials
            if report.interrupted:
                raise KeyboardInterrupt
        else:
            self.out.line(f"0 trials: all {len(wanted)} operations are in the database")
        decoder.next(decoder.start(prompt).argmax(-1, keepdim=True))  # builds the kernels that won

    def times(self, decision: Any) -> float:
        """How often an operation runs: those of the prompt once, those of a single token for every token."""
        kind = decision.spec.partition("{")[0]
        rows = decision.sizes[1] if kind == "Attention" else decision.sizes[0]
        return float(self.given.tokens) if rows == 1 else 1.0

    def answer(self, decoder: Any, tokenizer: Any) -> None:
        from headrace.demo.language import answer

        self.out.heading(f"4. {self.given.question}")
        live = self.out.terminal
        said = answer(
            decoder,
            tokenizer,
            self.given.question,
            self.given.tokens,
            (lambda text: print(text, end="", flush=True)) if live else None,
        )
        self.out.line("" if live else said.text)
        self.out.line()
        show.answer(self.out, said)
        self.document["answer"] = dataclasses.asdict(said)

    def decisions(self) -> None:
        from headrace.compiler.scopes import RUNTIME

        found = RUNTIME.decisions()
        self.out.heading("5. What runs, and why")
        show.decisions(self.out, found)
        self.out.line(show.origins(found))
        self.document["decisions"] = [dataclasses.asdict(decision) for decision in found]
        self.document["from_database"] = sum(map(show.from_database, found))

    def race(self, loaded: Any, decoder: Any, prompt: torch.Tensor) -> None:
        from headrace.demo.language import race

        self.out.heading("6. Decoding, in turn with eager and Inductor")
        found = race(loaded, decoder, prompt, self.given.rounds)
        show.race(self.out, found, loaded.weight_bytes)
        self.document["race"] = {
            "tokens_per_second": {name: timing.per_second for name, timing in found.timings.items()},
            "over_inductor": found.over_inductor,
            "over_eager": found.over_eager,
            "rounds": self.given.rounds,
        }

    def sentences(self) -> None:
        from headrace.demo.models import load_minilm
        from headrace.demo.sentences import compare

        self.out.heading("7. Three sentences, embedded")
        loaded = load_minilm()
        found = compare(loaded)
        show.similarities(self.out, found)
        self.document["sentences"] = dataclasses.asdict(found)


if __name__ == "__main__":
    raise SystemExit(main())
