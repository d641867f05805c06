"""Which programs load an adapter with the effect it was trained to have, and why one does not.

Rules as measured on A1111 1.10.1, Forge 2.0.1, ComfyUI 0.3.64, sd-scripts and diffusers 0.42; a rule speaks of a
module's tensors or of its name. `sdtune`'s certificate reads a file as each program does; this is the short answer.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sdtune.formats.adapters import is_new_glora, split_modules
from sdtune.formats.describe.adapter import dora_axis, read_alphas, read_scales

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdtune.formats.adapters import AdapterModule
    from sdtune.formats.facts import Family, FileFacts

A1111, FORGE, COMFYUI, SCRIPTS, DIFFUSERS = PROGRAMS = ("A1111", "Forge", "ComfyUI", "sd-scripts", "diffusers")
Harm = Literal["skipped", "wrong", "refused"]
_FORGE_LIMIT = 12  # unmatched keys beyond which Forge drops a file

# Form of a module's tensors, to the programs that do not give it its effect, with what they do.
_NO_SCRIPTS: tuple[tuple[str, Harm], ...] = (SCRIPTS, "skipped"), (DIFFUSERS, "refused")
_FORMS: Mapping[str, tuple[tuple[str, Harm], ...]] = {
    "lora": (),
    "Tucker factors": _NO_SCRIPTS,
    "DoRA by input": ((SCRIPTS, "wrong"), (DIFFUSERS, "wrong")),
    "DoRA by output": tuple((program, "wrong") for program in PROGRAMS),
    "loha": _NO_SCRIPTS,
    "lokr": _NO_SCRIPTS,
    "lokr with Tucker factors": ((FORGE, "refused"), (COMFYUI, "skipped"), *_NO_SCRIPTS),
    "full": _NO_SCRIPTS,
    "norms": _NO_SCRIPTS,
    "text encoder norms": ((FORGE, "skipped"), (COMFYUI, "skipped"), *_NO_SCRIPTS),
    "a bias alone": ((A1111, "refused"), *_NO_SCRIPTS),
    "ia3": ((FORGE, "skipped"), (COMFYUI, "skipped"), *_NO_SCRIPTS),
    "ia3 of a convolution's outputs": (
        (A1111, "skipped"),
        (FORGE, "skipped"),
        (COMFYUI, "skipped"),
        *_NO_SCRIPTS,
    ),
    "diag-oft": ((FORGE, "skipped"), *_NO_SCRIPTS),
    "diag-oft with rescale": ((FORGE, "skipped"), (COMFYUI, "wrong"), *_NO_SCRIPTS),
    "diag-oft with a constraint": ((FORGE, "skipped"), (COMFYUI, "wrong"), *_NO_SCRIPTS),
    "boft": ((FORGE, "skipped"), *_NO_SCRIPTS),
    "boft without alpha": ((FORGE, "skipped"), (COMFYUI, "skipped"), *_NO_SCRIPTS),
    "glora": ((A1111, "skipped"), *_NO_SCRIPTS),
    "glora (old) with alpha": ((A1111, "wrong"), *_NO_SCRIPTS),
    "glora (old)": _NO_SCRIPTS,
    "a bias beside factors": ((A1111, "wrong"), (SCRIPTS, "wrong"), (DIFFUSERS, "refused")),
    "kohya's OFT": ((FORGE, "skipped"), (COMFYUI, "skipped"), (DIFFUSERS, "refused")),
}
_DIALECTS: Mapping[str, tuple[tuple[str, Harm], ...]] = {
    "kohya": (),
    "diffusers": ((A1111, "skipped"), (SCRIPTS, "skipped")),
    "diffusers_old": ((A1111, "skipped"), (SCRIPTS, "skipped")),
    "hcp": tuple((program, "refused" if program in {FORGE, DIFFUSERS} else "skipped") for program in PROGRAMS),
}
_DIALECT_TITLES = {
    "diffusers": "diffusers' names",
    "diffusers_old": "old diffusers names",
    "hcp": "HCP-Diffusion's names",
}
_ENDS = re.compile(r"conv_in$|conv_out$|time_embed|add_embedding|label_emb|^input_blocks_0_0$|^out_\d$")
_IN_PIPELINE = re.compile(r"(unet|text_encoder(_2)?)\.")
_A1111_MISSES = re.compile(r"^up_blocks_0_upsamplers_0_conv$|^add_embedding|^conv_norm_out$")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something a program does not take: which, what it does, why, and to how many modules."""

    program: str
    harm: Harm
    reason: str
    modules: int


def describe_readers(facts: FileFacts) -> list[dict[str, str]]:
    """Give the section `loads_in` for an adapter: of each program `yes`, `partly`, `wrong` or `no`, and the reason."""
    modules, strays = split_modules(facts.tensors)
    found = [
        *_by_form(modules, _read_scalars(modules, facts)),
        *_by_dialect(modules),
        *_by_todays_names(modules, facts.metadata),
        *_by_names(modules, facts.family),
        *_by_shape(modules, facts.family),
        *_by_strays(strays),
    ]
    return [_answer(program, [o for o in found if o.program == program], modules) for program in PROGRAMS]


def _answer(program: str, found: Sequence[Obstacle], modules: Sequence[AdapterModule]) -> dict[str, str]:
    reasons = list(dict.fromkeys(obstacle.reason for obstacle in found))
    lost = max((o.modules for o in found if o.harm == "skipped"), default=0)
    unmatched = sum(o.modules for o in found if o.harm == "skipped")
    if program == FORGE and unmatched * 2 > _FORGE_LIMIT:
        reasons.append("it drops files with more than 12 names it does not know")
        answer = "no"
    elif any(obstacle.harm == "refused" for obstacle in found) or (lost and lost >= len(modules)):
        answer = "no"
    elif any(obstacle.harm == "wrong" for obstacle in found):
        answer = "wrong"
    else:
        answer = "partly" if found else "yes"
    return {"program": program, "answer": answer, "reason": "; ".join(reasons)}


def _read_scalars(modules: Sequence[AdapterModule], facts: FileFacts) -> dict[int, float]:
    """Read the one number that some forms hang on: alpha, or (IA)3's `on_input`; identity of the module to it."""
    names = {module.names["on_input"]: module for module in modules if "on_input" in module.names}
    marks = {id(names[name]): value for name, value in facts.contents.read_scalars(names).items()}
    return read_alphas(modules, facts.contents) | marks


def _by_form(modules: Sequence[AdapterModule], scalars: Mapping[int, float]) -> Iterator[Obstacle]:
    forms = Counter(form for module in modules for form in find_forms(module, scalars.get(id(module))))
    verbs = {"skipped": "does not apply", "wrong": "reads otherwise", "refused": "refuses"}
    for form, count in forms.items():
        for program, harm in _FORMS[form]:
            yield Obstacle(program, harm, f"{verbs[harm]} {form}", count)


def find_forms(module: AdapterModule, alpha: float | None) -> list[str]:
    """Name what programs may stumble over in a module's tensors, keys of the table above.

    Args:
        module: The module.
        alpha: Its alpha, or of (IA)3 `on_input`; None: there is none.
    """
    tensors = module.tensors
    forms = [_main_form(module, alpha)]
    if module.is_tucker and module.algorithm in {"lora"}:
        forms.append("Tucker factors")
    if "dora_scale" in tensors:
        forms.append(f"DoRA by {dora_axis(module)}")
    if "diff_b" in tensors and module.algorithm == "lora":
        forms.append("a bias beside factors")
    return forms


def _main_form(module: AdapterModule, alpha: float | None) -> str:
    algorithm, tensors = module.algorithm, module.tensors
    if any(name.startswith("oft_unet_") for name in module.names.values()):
        return "kohya's OFT"
    if algorithm == "lokr" and module.is_tucker:
        return "lokr with Tucker factors"
    if algorithm == "norms" and module.component != "unet":
        return "text encoder norms"
    if algorithm == "diag-oft" and "rescale" in tensors:
        return "diag-oft with rescale"
    if algorithm == "diag-oft" and alpha:
        return "diag-oft with a constraint"
    if algorithm == "boft" and alpha is None:
        return "boft without alpha"
    if algorithm == "full" and "diff" not in tensors:
        return "a bias alone"
    if algorithm == "ia3" and alpha == 0 and len(tensors["weight"].shape) > 2:
        return "ia3 of a convolution's outputs"
    return _glora_form(module, alpha) if algorithm == "glora" else algorithm


def _glora_form(module: AdapterModule, alpha: float | None) -> str:
    if is_new_glora({name: tensor.shape for name, tensor in module.tensors.items()}):
        return "glora"
    return "glora (old)" if alpha in (None, module.rank) else "glora (old) with alpha"


def _by_dialect(modules: Sequence[AdapterModule]) -> Iterator[Obstacle]:
    counts = Counter(module.dialect for module in modules)
    for dialect, count in counts.items():
        for program, harm in _DIALECTS[dialect]:
            yield Obstacle(program, harm, f"does not read {_DIALECT_TITLES[dialect]}", count)
    if len(counts) > 1:
        yield Obstacle(DIFFUSERS, "refused", "refuses a file with names of several kinds", len(modules))


def _by_todays_names(modules: Sequence[AdapterModule], metadata: Mapping[str, str]) -> Iterator[Obstacle]:
    """ComfyUI and Forge know attention by the names diffusers had in 2023, and look for no alpha in the metadata."""
    modules = [module for module in modules if module.dialect == "diffusers"]
    keys = [key for module in modules if module.component in {"unet", None} for key in module.names.values()]
    unknown = {key.partition(".lora_")[0] for key in keys if ".to_" in key and ".processor." not in key}
    if strange := sum(not all(map(_IN_PIPELINE.match, module.names.values())) for module in modules):
        yield Obstacle(DIFFUSERS, "refused", "wants names that begin with unet. or text_encoder.", strange)
    scaled = sum(scale != 1 for scale in read_scales(modules, {}, metadata).values())
    for program in (FORGE, COMFYUI):
        if unknown:
            reason = "knows attention by diffusers' names of 2023 alone"
            yield Obstacle(program, "skipped", reason, len(unknown))
        if scaled:
            yield Obstacle(program, "wrong", "reads no alpha from the metadata", scaled)


def _by_names(modules: Sequence[AdapterModule], family: Family | None) -> Iterator[Obstacle]:
    kohya = [module for module in modules if module.dialect == "kohya"]
    text = [m for m in kohya if m.component not in {"unet", None}]
    bare = sum(module.name.startswith("encoder_layers_") for module in text)
    if bare:
        reason = "does not know text encoder names without text_model"
        yield from (Obstacle(program, "skipped", reason, bare) for program in (A1111, FORGE, COMFYUI, SCRIPTS))
    unet = [module for module in kohya if module.component == "unet"]
    if ends := sum(bool(_ENDS.search(module.name)) for module in unet):
        yield Obstacle(SCRIPTS, "skipped", "does not train the ends of the UNet", ends)
    yield from _by_unet_names(unet, family)
    if family in {"sd2", "sdxl"} and (count := _split_attentions(text, family)):
        yield Obstacle(A1111, "skipped", "wants all of q, k, v and out of an OpenCLIP attention", count)


def _by_unet_names(unet: Sequence[AdapterModule], family: Family | None) -> Iterator[Obstacle]:
    ldm = sum(module.name.startswith(("input_blocks_", "output_blocks_", "middle_block_")) for module in unet)
    blocks = sum(module.name.startswith(("down_blocks_", "up_blocks_", "mid_block_")) for module in unet)
    if family == "sdxl":
        if ldm and blocks:
            yield Obstacle(DIFFUSERS, "skipped", "loses webui's UNet names where diffusers' are there too", ldm)
        if missed := sum(bool(_A1111_MISSES.match(module.name)) for module in unet):
            yield Obstacle(A1111, "skipped", "does not know some of diffusers' UNet names", missed)
    elif family and ldm:
        yield Obstacle(DIFFUSERS, "refused", f"knows webui's UNet names for SDXL alone, not for {family.upper()}", ldm)


def _split_attentions(text: Sequence[AdapterModule], family: Family) -> int:
    """Count attention modules of OpenCLIP layers in which one of the four is missing."""
    encoder = "text_encoder_2" if family == "sdxl" else "text_encoder"
    layers = Counter(m.block for m in text if m.component == encoder and "_self_attn_" in m.name)
    return sum(count for count in layers.values() if count < 4)


def _by_shape(modules: Sequence[AdapterModule], family: Family | None) -> Iterator[Obstacle]:
    """SD1's `proj_in` and `proj_out` are convolutions (4-D), later families' are linear (2-D)."""
    if family is None:
        return
    wanted = 4 if family == "sd1" else 2
    ends = [m for m in modules if m.component == "unet" and m.name.endswith(("_proj_in", "_proj_out"))]
    ranks = [len(m.tensors["lora_down.weight"].shape) for m in ends if "lora_down.weight" in m.tensors]
    if count := sum(rank != wanted for rank in ranks):
        reason = f"wants {wanted}-D tensors for {family.upper()}'s proj_in and proj_out"
        yield from (Obstacle(program, "refused", reason, count) for program in (SCRIPTS, DIFFUSERS))
    sides = [(m, 4) for m in modules if m.is_conv3] + [(m, wanted) for m in ends]
    if flat := sum("diff" in m.tensors and len(m.tensors["diff"].shape) != count for m, count in sides):
        reason = "wants whole weights in the shape that the layer has"
        yield from (Obstacle(program, "skipped", reason, flat) for program in (FORGE, COMFYUI))


def _by_strays(strays: Sequence[str]) -> Iterator[Obstacle]:
    bundled = sum(name.startswith("bundle_emb.") for name in strays)
    if bundled:
        yield Obstacle(DIFFUSERS, "refused", "refuses bundled embeddings", bundled)
    if others := len(strays) - bundled:
        yield Obstacle(DIFFUSERS, "refused", f"refuses names it does not know ({others})", others)
    if len(strays) > _FORGE_LIMIT:
        yield Obstacle(FORGE, "refused", f"drops files with more than 12 names it does not know ({len(strays)})", 0)
