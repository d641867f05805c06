import pytest
from click.testing import CliRunner

from sdtune.cli.export import export
from sdtune.errors import ConfigError


def run(*args):
    return CliRunner().invoke(export, [str(arg) for arg in args], catch_exceptions=False)


def test_export_writes_and_tells_the_prompt(run_dir, webui):
    result = run(run_dir, "--to", "webui", "--webui-dir", webui)
    assert "in the prompt: <lora:dog:1> zwx dog" in result.output
    assert result.output.count("wrote: ") == 3


def test_second_export_tells_that_files_are_there(run_dir, webui):
    run(run_dir, "--webui-dir", webui)
    assert run(run_dir, "--webui-dir", webui).output.count("already there: ") == 3


def test_dry_run_writes_nothing(run_dir, webui):
    result = run(run_dir, "--webui-dir", webui, "--dry-run")
    assert result.output.count("would write: ") == 3
    assert not list((webui / "models" / "Lora").iterdir())


def test_run_is_found_by_name(run_dir, webui, monkeypatch):
    monkeypatch.chdir(run_dir.parent.parent)
    assert run("dog", "--webui-dir", webui).exit_code == 0


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        ([], "--to webui or --to comfyui"),
        (["--to", "webui"], "--webui-dir DIR"),
        (["--to", "comfyui"], "--comfyui-dir DIR"),
        (["--webui-dir", "a", "--comfyui-dir", "b"], "--to webui or --to comfyui"),
    ],
)
def test_missing_choice_is_told_with_its_option(run_dir, args, hint):
    with pytest.raises(ConfigError, match=hint):
        run(run_dir, *args)
