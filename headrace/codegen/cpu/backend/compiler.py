"""``BaseBackend`` of the CPU engine: stages ttir -> llir -> obj."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import BaseBackend, GPUTarget


class CpuBackend(BaseBackend):  # type: ignore[misc]  # triton ships no types
    """Compiles Triton kernels to object code for the host's processor."""

    binary_ext = "obj"

    def __init__(self, target: GPUTarget) -> None:
        super().__init__(target)
        self.arch = str(target.arch)

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        """Covers the engine's sources, LLVM's version and the processor's features."""
        from headrace.codegen.cpu import pipeline

        return pipeline.fingerprint()

    def parse_options(self, options: dict[str, Any]) -> Any:
        from headrace.codegen.cpu.backend import options as cpu_options

        return cpu_options.parse(options, self.arch)

    def pack_metadata(self, metadata: Any) -> tuple[()]:
        return ()

    def get_codegen_implementation(self, options: Any) -> dict[str, Any]:
        return {"min_dot_size": lambda left, right: (1, 1, 1)}

    def get_module_map(self) -> dict[str, Any]:
        from headrace.codegen.cpu.backend import libdevice

        return {"triton.language.extra.libdevice": libdevice}

    def load_dialects(self, context: Any) -> None:
        """The engine reads plain TTIR; Triton has loaded its dialects."""

    def add_stages(self, stages: dict[str, Any], options: Any, language: Any) -> None:
        """Fill in the stages.

        Raises:
            UnsupportedTtir: the kernel is written in Gluon, which names GPU layouts.
        """
        from headrace.codegen.cpu import pipeline
        from headrace.errors import UnsupportedTtir

        if getattr(language, "name", "TRITON") != "TRITON":
            raise UnsupportedTtir(
                "Gluon kernels name GPU layouts and cannot run on the CPU; write the kernel in Triton"
            )
        stages["ttir"] = pipeline.make_ttir
        stages["llir"] = lambda module, metadata: pipeline.make_llir(
            module, metadata, options.engine, options.enable_fp_fusion
        )
        stages["obj"] = pipeline.make_obj
