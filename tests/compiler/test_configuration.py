"""Settings: layers in order, values with their origins, mistakes named."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import configuration, settings
from headrace.errors import SettingsError


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No HEADRACE_ variable and no user file of the machine at hand."""
    for name in settings.environment():
        monkeypatch.delenv(name)
    monkeypatch.setattr(configuration, "user_file", lambda: tmp_path / "config.toml")


def test_defaults_say_that_they_are(tmp_path: Path) -> None:
    found = configuration.load(start=tmp_path)
    assert found.settings.tuning == "replay"
    assert found.origin("tuning") == "default"


def test_nearer_layers_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text('tuning = "off"\nbudget = 1.0\nclaim = "gemm"\nstrict = true\n')
    (tmp_path / "pyproject.toml").write_text(
        '[tool.headrace]\nbudget = 2.0\nclaim = "rows"\nstrict = false\n'
    )
    monkeypatch.setenv("HEADRACE_CLAIM", "all")
    monkeypatch.setenv("HEADRACE_STRICT", "0")
    below = tmp_path / "src" / "deep"
    below.mkdir(parents=True)
    found = configuration.load({"strict": True}, start=below)
    assert (found.settings.tuning, found.settings.budget) == ("off", 2.0)
    assert (found.settings.claim, found.settings.strict) == ("all", True)
    assert found.origin("tuning").startswith("user file")
    assert found.origin("budget").startswith("project file")
    assert found.origin("claim") == "environment HEADRACE_CLAIM"
    assert found.origin("strict") == "argument"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("HEADRACE_TUNING", "sometimes", "HEADRACE_TUNING"), ("HEADRACE_BUDGET", "-3", "greater than or equal")],
)
def test_an_impossible_value_names_its_layer(
    name: str, value: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        configuration.load(start=tmp_path)


def test_an_unknown_name_in_a_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.headrace]\ntunning = "off"\n')
    with pytest.raises(SettingsError, match="did you mean 'tuning'"):
        configuration.load(start=tmp_path)


def test_an_unknown_name_in_the_environment_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_TUNNING", "off")
    with pytest.raises(SettingsError, match=r"HEADRACE_TUNNING: .*did you mean 'tuning'"):
        configuration.load(start=tmp_path)


def test_an_empty_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in configuration.Settings.model_fields:
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", "")
    found = configuration.load(start=tmp_path)
    assert {entry.origin for entry in found.origins} == {"default"}
    assert found.records_folder.is_absolute()


def test_a_tilde_is_the_home_folder_in_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "pyproject.toml").write_text('[tool.headrace]\ndatabase = "~/tuned.db"\n')
    monkeypatch.setenv("HEADRACE_CACHE_DIR", "~/cache")
    found = configuration.load({"dump": "~/graphs"}, start=tmp_path)
    assert found.database_path == tmp_path / "home" / "tuned.db"
    assert found.records_folder == tmp_path / "home" / "cache" / "graphs"
    assert found.settings.dump == tmp_path / "home" / "graphs"
    assert settings.kernel_directory() == str(tmp_path / "home" / "cache" / "kernels")


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("tuning = [")
    with pytest.raises(SettingsError, match=r"config\.toml is not TOML"):
        configuration.load(start=tmp_path)
