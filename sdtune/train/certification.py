"""After the last step: prove that the exported files do elsewhere what was trained."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch

from sdtune.data.captions import example_captions
from sdtune.train.assembly import open_base, unpacked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.config.schema import OutputOptions
    from sdtune.export.certificate import Certificate
    from sdtune.plugins import Registry
    from sdtune.train.run import ExportedFile, Run

logger = logging.getLogger(__name__)


def certify_exports(run: Run, files: Sequence[ExportedFile], registry: Registry) -> Certificate | None:
    """Read the delivered files back as other programs do, and write what is found into them and into `run.json`.

    The trained model is asked first; then the base model is opened once more, beside it.

    Args:
        run: The run after its last step, its model with the weights that the files show.
        files: What it exported.
        registry: Opens the base model.

    Returns:
        None: it is not wanted, there is nothing to read, or memory does not suffice.
    """
    from sdtune.export.certificate import FAMILIES, READABLE, certify, write_certificate
    from sdtune.export.probe import Probe, ask_loaded
    from sdtune.export.weights import trained_changes
    from sdtune.formats.consumers.reading import open_file

    delivered = [file for file in files if file.is_delivered and file.path.suffix in READABLE]
    if not run.options.output.certify or not delivered or run.model.family not in FAMILIES:
        return None
    started = time.perf_counter()
    delivered.sort(key=lambda file: file.kind != "checkpoint")  # an adapter acts on the checkpoint, not the other way
    words = " ".join(file.path.stem for file in delivered if file.kind == "embedding")
    has_vae = any(file.kind == "checkpoint" for file in delivered)
    probe = Probe(captions=(f"a picture of {words}", next(example_captions(run.index.instances))), has_vae=has_vae)
    try:
        trained = weights = None
        with run.model.stored_weights():  # as in the programs that will use the files
            if run.method.is_whole_in_files():
                trained = ask_loaded(run.model, probe)
                weights = trained_changes(run.model, is_whole=has_vae)
            base = open_base(unpacked(run.options), registry)
            for part in probe.parts:
                base.load(part)
            opened = [open_file(file.path, file.kind) for file in delivered]
            chosen, asked = programs(run.options.output)
            certificate = certify(opened, base, probe, trained=trained, weights=weights, chosen=chosen, asked=asked)
    except torch.OutOfMemoryError:
        logger.warning("memory does not suffice to read the files back as other programs do; try sdtune verify")
        return None
    del opened
    for file in delivered:
        if file.path.suffix == ".safetensors":
            write_certificate(file.path, certificate.facts(file.path.name))
    run.folder.write_facts({"certificate": {file.path.name: certificate.facts(file.path.name) for file in delivered}})
    logger.info("read back as other programs do, in %.1f s", time.perf_counter() - started)
    return certificate


def programs(output: OutputOptions) -> tuple[list[str], list[str]]:
    """List the programs the files must work in, named or given a copy, and those that are asked; empty: all."""
    from sdtune.formats.consumers.table import CONSUMERS

    copied = {"a1111": output.webui_dir, "comfyui": output.comfyui_dir}
    chosen = dict.fromkeys([*output.consumers, *(name for name, root in copied.items() if root is not None)])
    return list(chosen), list(chosen) if output.consumers else list(CONSUMERS)
