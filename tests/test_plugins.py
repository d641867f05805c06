"""The registry survives every plugin, and names the one that is wrong."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click
import pytest

from sdtune.api import ConfigError, FamilySpec, MethodSpec, Options, hookimpl
from sdtune.loader import PluginError
from sdtune.plugins import Registry, load_registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdtune.loader import Plugin


def method(name: str, *aliases: str) -> MethodSpec:
    return MethodSpec(name=name, summary="", config=Options, factory="nowhere:Nothing", aliases=aliases)


def make_plugin(name: str, **hooks: Callable[..., object]) -> ModuleType:
    """Make a plugin module that answers the given hooks."""
    plugin = ModuleType(name)
    for hook, function in hooks.items():
        setattr(plugin, hook, hookimpl(function))
    return plugin


def method_plugin(name: str, *specs: MethodSpec) -> ModuleType:
    return make_plugin(name, sdtune_methods=lambda: specs)


class Installer:
    """Installs plugin packages into a folder on `sys.path`, as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, code: str, *, dist: str = "some_dist") -> None:
        info = self.folder / f"{dist}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[sdtune]\n{name} = {name}_of_{dist}\n")
        (self.folder / f"{name}_of_{dist}.py").write_text(code)


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    monkeypatch.syspath_prepend(tmp_path)
    return Installer(tmp_path)


METHOD_CODE = """
from sdtune.api import MethodSpec, Options, hookimpl

@hookimpl
def sdtune_methods():
    return [MethodSpec(name={name!r}, summary="", config=Options, factory="nowhere:Nothing")]
"""


def found(registry: Registry, name: str) -> Plugin:
    return next(plugin for plugin in registry.report() if plugin.name == name)


def test_methods_are_sorted_by_name() -> None:
    registry = Registry.from_plugins([method_plugin("one", method("b"), method("a"))])
    assert list(registry.methods()) == ["a", "b"]


@pytest.mark.parametrize("name", ["textual_inversion", "textual-inversion", "ti", "TI"])
def test_a_method_is_found_by_name_alias_case_and_dash(name: str) -> None:
    spec = method("textual_inversion", "ti")
    assert Registry.from_plugins([method_plugin("one", spec)]).method(name) is spec


def test_an_unknown_method_suggests_the_nearest_and_lists_all() -> None:
    registry = Registry.from_plugins([method_plugin("one", method("lora"), method("lycoris"))])
    with pytest.raises(ConfigError, match=r"'loar'.*did you mean 'lora'\? \(there is lora, lycoris\)"):
        registry.method("loar")


def test_two_plugins_with_one_method_name_are_both_named() -> None:
    registry = Registry.from_plugins([method_plugin("first", method("x")), method_plugin("second", method("x"))])
    with pytest.raises(PluginError, match=r"'x' is brought by two plugins, 'first' and 'second'"):
        registry.methods()


def test_an_alias_that_is_another_plugins_method_is_an_error() -> None:
    registry = Registry.from_plugins([method_plugin("first", method("x")), method_plugin("second", method("y", "x"))])
    with pytest.raises(PluginError, match="SDTUNE_DISABLE_PLUGINS=second"):
        registry.method("y")


def test_two_plugins_with_one_family_are_both_named() -> None:
    hooks = {"sdtune_families": lambda: [FamilySpec(name="sd9", summary="", factory="nowhere:nothing")]}
    registry = Registry.from_plugins([make_plugin("first", **hooks), make_plugin("second", **hooks)])
    with pytest.raises(PluginError, match="'first' and 'second'"):
        registry.families()


def test_sdtunes_own_families_are_always_there() -> None:
    assert "sd1" in Registry.from_plugins([]).families()


def test_an_unknown_family_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sd1'"):
        Registry.from_plugins([]).family("sd1.5")


def test_a_plugins_family_is_detected_before_sdtune_is_asked() -> None:
    def detect(shapes: object, path: object) -> str:
        return "mine"

    registry = Registry.from_plugins([make_plugin("one", sdtune_detect_family=detect)])
    assert registry.detect_family({}, Path("model.safetensors")) == "mine"


def test_nobody_knowing_a_file_gives_none() -> None:
    assert Registry.from_plugins([]).detect_family({"weight": (1, 2)}, Path("model.safetensors")) is None


def test_a_hook_that_fails_later_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> list[click.Command]:
        raise RuntimeError("no commands today")

    good = click.Command("hello")
    plugins = [make_plugin("bad", sdtune_commands=fail), make_plugin("good", sdtune_commands=lambda: [good])]
    assert Registry.from_plugins(plugins).commands() == [good]
    assert "plugin 'bad' fails: RuntimeError: no commands today" in caplog.text


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (
            make_plugin("typo", sdtune_methds=lambda: []),
            r"unknown hook 'sdtune_methds'; did you mean 'sdtune_methods'\?",
        ),
        (ModuleType("empty"), "answers no hook"),
        (make_plugin("wrong", sdtune_methods=lambda: ["lora"]), "gives 'lora' where a MethodSpec belongs"),
        (make_plugin("none", sdtune_methods=lambda: 1 / 0), "ZeroDivisionError"),
        (make_plugin("arguments", sdtune_detect_family=lambda header: None), "can not be found in the hookspec"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, ModuleType) else "",
)
def test_a_wrong_plugin_object_is_named_with_its_fault(plugin: ModuleType, message: str) -> None:
    with pytest.raises(PluginError, match=f"plugin '{plugin.__name__}' cannot be used: .*{message}"):
        Registry.from_plugins([plugin])


def test_an_optional_hook_of_another_version_is_no_fault() -> None:
    plugin = method_plugin("newer", method("x"))
    plugin.sdtune_from_the_future = hookimpl(lambda: None, optionalhook=True)  # type: ignore[attr-defined]  # a module
    assert "x" in Registry.from_plugins([plugin]).methods()


def test_an_installed_plugin_is_found_with_provider_and_version(installer: Installer) -> None:
    installer.install("rainbow", METHOD_CODE.format(name="rainbow"))
    registry = load_registry()
    assert "rainbow" in registry.methods()
    plugin = found(registry, "rainbow")
    assert (plugin.provider, plugin.version, plugin.state) == ("some_dist", "1.2", "ready")


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('broken\\nbadly')", "raise SystemExit(3)", "import not_there", "def"]
)
def test_a_plugin_that_cannot_be_imported_is_one_warning(
    installer: Installer, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    installer.install("wreck", code)
    assert found(load_registry(), "wreck").state == "broken"
    assert len([record for record in caplog.records if "plugin 'wreck' of some_dist 1.2" in record.message]) == 1


def test_asking_for_the_method_of_a_broken_plugin_is_an_error(installer: Installer) -> None:
    installer.install("wreck", "raise RuntimeError('bad luck')")
    with pytest.raises(PluginError, match="RuntimeError: bad luck"):
        load_registry().method("wreck")


def test_a_disabled_plugin_is_listed_but_not_imported(installer: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    installer.install("sleeper", METHOD_CODE.format(name="sleeper"))
    monkeypatch.setenv("SDTUNE_DISABLE_PLUGINS", "other, sleeper")
    registry = load_registry()
    assert found(registry, "sleeper").state == "disabled"
    assert "sleeper_of_some_dist" not in sys.modules
    with pytest.raises(ConfigError, match="switched off by SDTUNE_DISABLE_PLUGINS"):
        registry.method("sleeper")


def test_disabling_what_is_not_installed_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SDTUNE_DISABLE_PLUGINS", "nobody")
    load_registry()
    assert "'nobody', but no such plugin" in caplog.text


def test_a_slow_import_is_named(
    installer: Installer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installer.install("snail", METHOD_CODE.format(name="snail"))
    ticks = iter(range(1000))
    monkeypatch.setattr("sdtune.loader.process_time", lambda: float(next(ticks)))
    with caplog.at_level(logging.WARNING):
        load_registry()
    assert "plugin 'snail' of some_dist 1.2 took 1.0 s to import" in caplog.text


def test_one_name_of_two_distributions_is_an_error_naming_both(installer: Installer) -> None:
    installer.install("twin", METHOD_CODE.format(name="twin"), dist="first")
    installer.install("twin", METHOD_CODE.format(name="twin"), dist="second")
    with pytest.raises(PluginError, match=r"'twin' of (first|second) 1.2 and 'twin' of (first|second) 1.2"):
        load_registry().methods()
