"""Settings with their origins: argument > environment > project file > user file > default.

The environment's names are `HEADRACE_` and the field in capitals. The project file is the `[tool.headrace]`
table of the nearest `pyproject.toml` upwards of the working directory; the user file is `config.toml` in the
user's configuration folder for headrace. `headrace config show` prints each value with where it comes from.
"""

from __future__ import annotations

import difflib
import functools
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from headrace.errors import SettingsError

APPLICATION = "headrace"


class Settings(BaseSettings):
    """Everything that can be set from outside; each field is documented by its description."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="forbid", frozen=True)

    database: Path | None = Field(None, description="the database of tuned results; default: the user's own")
    tuning: Literal["off", "replay", "tune", "verify"] = Field(
        "replay", description="how measurements are used"
    )
    budget: float = Field(60.0, ge=0, description="seconds that tuning may spend in one process")
    claim: str = Field(
        "auto",
        pattern=r"^(auto|all|none|(attention|gemm|rows)(\+(attention|gemm|rows))*)$",
        description="which regions are taken from Inductor",
    )
    target: Literal["auto", "cpu", "cuda", "hip", "library"] = Field(
        "auto", description="the engine to run on"
    )
    strict: bool = Field(False, description="raise instead of falling back")
    dump: Path | None = Field(None, description="a folder that receives every graph as text")
    calibration: str | None = Field(
        None, description="the calibration that permits a unified maximum; default: none"
    )
    cache_dir: Path | None = Field(
        None, description="where graph records are kept; default: the user's cache"
    )
    cpu_engine: bool = Field(True, description="whether Triton kernels run natively on the CPU")
    cpu_features: Literal["native", "avx512", "avx2", "baseline"] = Field(
        "native", description="instruction sets that generated CPU code may use"
    )
    recorded_data: Path | None = Field(
        None, description="a folder of measurements recorded on GPUs, for tests"
    )

    @field_validator("database", "dump", "cache_dir", "recorded_data")
    @classmethod
    def at_home(cls, path: Path | None) -> Path | None:
        """`~/x` in the home folder: no shell expands what stands in a file."""
        return None if path is None else Path(os.path.expanduser(path))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Layers are merged by `load`, which has to know where each value came from.
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from, in words, e.g. `environment HEADRACE_STRICT` or `default`."""

    name: str
    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings in force, and the origin of each."""

    settings: Settings
    origins: tuple[Origin, ...]

    def origin(self, name: str) -> str:
        return next(entry.origin for entry in self.origins if entry.name == name)

    @property
    def database_path(self) -> Path:
        """The database in use; a default place where none was set."""
        return self.settings.database or data_folder() / "headrace.db"

    @property
    def records_folder(self) -> Path:
        return (self.settings.cache_dir or Path(platformdirs.user_cache_path(APPLICATION))) / "graphs"


def data_folder() -> Path:
    return Path(platformdirs.user_data_path(APPLICATION))


def user_file() -> Path:
    return Path(platformdirs.user_config_path(APPLICATION)) / "config.toml"


def project_file(start: Path | None = None) -> Path | None:
    """The nearest pyproject.toml upwards of a folder that has a `[tool.headrace]` table."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        candidate = folder / "pyproject.toml"
        if candidate.is_file() and APPLICATION in _toml(candidate).get("tool", {}):
            return candidate
    return None


def load(overrides: Mapping[str, Any] | None = None, *, start: Path | None = None) -> Configuration:
    """Read every layer anew.

    Args:
        overrides: values given as arguments; they win.
        start: the folder from which the project file is looked for; the working directory by default.

    Raises:
        SettingsError: an unknown name or an impossible value, saying in which layer it stands.
    """
    from headrace import settings

    layers: list[tuple[str, dict[str, Any]]] = [("argument", dict(overrides or {}))]
    known = Settings.model_fields
    environment = {  # an empty variable is one that is not set
        name.removeprefix("HEADRACE_").lower(): value
        for name, value in settings.environment().items()
        if value.strip()
    }
    layers.append(("environment", environment))
    project = project_file(start)
    if project is not None:
        layers.append((f"project file {project}", dict(_toml(project)["tool"][APPLICATION])))
    user = user_file()
    if user.is_file():
        layers.append((f"user file {user}", _toml(user)))
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        for name, value in values.items():
            where = f"environment HEADRACE_{name.upper()}" if origin == "environment" else origin
            if name not in known:
                raise SettingsError(f"{where}: unknown setting {name!r}{_nearest(name)}")
            if name not in merged:
                merged[name], origins[name] = value, where
    try:
        found = Settings(**merged)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        raise SettingsError(
            f"{origins.get(name, 'settings')}: {name} = {merged.get(name)!r}: {first['msg']}"
        ) from None
    listed = tuple(Origin(name, getattr(found, name), origins.get(name, "default")) for name in known)
    return Configuration(found, listed)


@functools.lru_cache(maxsize=1)
def current() -> Configuration:
    """The configuration of this process, read once. `current.cache_clear()` reads it again."""
    return load()


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None


def _nearest(name: str) -> str:
    found = difflib.get_close_matches(name, list(Settings.model_fields), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(Settings.model_fields)}"
