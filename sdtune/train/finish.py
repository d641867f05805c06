"""After the last step: bring the files of a run to where other programs look for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.export.deliver import carry_out, plan_delivery
from sdtune.export.folders import check_root
from sdtune.files import sweep_drafts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdtune.config.schema import OutputOptions
    from sdtune.export.folders import UI
    from sdtune.train.run import Run


def check_targets(output: OutputOptions) -> None:
    """Look at the folders that finished files go to, before anything is trained.

    Raises:
        ConfigError: One is not there, or is the folder of another program.
        PlatformError: One is a file.
    """
    for ui, root in _targets(output):
        check_root(ui, root)


def deliver_finished(run: Run) -> Iterator[str]:
    """Copy a finished run's files to the programs the options name; tell how each is used.

    Raises:
        ConfigError: A file of that name with other content is there; it is left as it is.
        PlatformError: A file cannot be written.
    """
    for ui, root in _targets(run.options.output):
        delivery = plan_delivery(run.folder.path, to=ui, root=root)
        for folder in {file.target.parent for file in delivery.files}:
            sweep_drafts(folder, is_alone=False, depth="here")
        carry_out(delivery)
        for file in delivery.files:
            yield f"copied: {file.target}"
        yield delivery.usage


def _targets(output: OutputOptions) -> list[tuple[UI, Path]]:
    roots: list[tuple[UI, Path | None]] = [("webui", output.webui_dir), ("comfyui", output.comfyui_dir)]
    return [(ui, root.expanduser()) for ui, root in roots if root is not None]
