"""The modules of an adapter file, whichever program wrote it: where each acts, and what its tensors are called.

kohya         `lora_unet_down_blocks_0_…_to_q.lora_down.weight`; everything before the first dot is the module
diffusers     `unet.down_blocks.0.….to_q.lora_A.weight` (PEFT)
diffusers_old `unet.….attn1.processor.to_q_lora.down.weight`, `text_encoder.….q_proj.lora_linear_layer.down.weight`,
              `unet.….to_q.lora.down.weight`
hcp           HCP-Diffusion: `lora:down_blocks.0.….to_q.___.layer.W_down` (2-D for linear layers), before 2023-07
              `….layer.lora_down.weight`; `….___.alpha` is alpha / rank already. One file for the UNet (`unet-N`), one
              for the text encoder (`text_encoder-N`); names inside begin at `down_blocks` or `text_model`, newer files
              put `denoiser.` or `TE.` before, and SDXL's text encoders are `clip_L` (or `clip_B`) and `clip_bigG`.
              `lora_ema:` holds the running average of the same; `base:` holds trained layers of the model itself.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sdtune.formats.facts import Dialect, TensorFacts

Component = Literal["unet", "text_encoder", "text_encoder_2"]
Layer = Literal["attention", "feed_forward", "projection", "resnet", "sampler", "embedding", "norm", "other"]

_KOHYA = re.compile(r"(lora_unet|lora_te1|lora_te2|lora_te|oft_unet|lora_prior_unet|lora_prior_te)_([^.]*)\.(.+)")
_KOHYA_PARTS: Mapping[str, Component] = {
    "lora_unet": "unet",
    "oft_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}
_HCP = re.compile(r"(?:[a-z_]+:|(?:lora|lora_ema)\.)?((?:denoiser|TE)\.)?(.+)\.___\.(.+)")
_HCP_LEAVES = {
    "layer.W_down": "lora_down.weight",
    "layer.W_up": "lora_up.weight",
    "layer.lora_down.weight": "lora_down.weight",
    "layer.lora_up.weight": "lora_up.weight",
    "layer.lora_up.bias": "diff_b",
    "layer.bias": "diff_b",
    "alpha": "alpha",
}
_PEFT = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_(A|B|magnitude_vector)(?:\.[a-z_0-9]+)??(?:\.weight)?")
_PEFT_LEAVES = {"A": "lora_down.weight", "B": "lora_up.weight", "magnitude_vector": "dora_scale"}
_OLD = re.compile(
    r"(.+?)(?:\.processor)?\.(?:(to_\w+?|\w+_proj)_lora|lora|lora_linear_layer)\.(down|up|alpha)(?:\.weight)?"
)
_OLD_LEAVES = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha"}
_DOTTED_PARTS: tuple[tuple[str, Component], ...] = (
    ("text_encoder_2.", "text_encoder_2"),
    ("clip_bigG.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
    ("clip_L.", "text_encoder"),
    ("clip_B.", "text_encoder"),
    ("unet.", "unet"),
)
# The tensors that tell an algorithm, the most telling first.
_SIGNS = (
    ("loha", "hada_w1_a"),
    ("lokr", "lokr_w1"),
    ("lokr", "lokr_w1_a"),
    ("glora", "a1.weight"),
    ("lora", "lora_down.weight"),
    ("lora", "lora_up.weight"),
    ("diag-oft", "oft_diag"),
    ("diag-oft", "oft_blocks"),
    ("full", "diff"),
    ("norms", "w_norm"),
    ("ia3", "on_input"),
    ("full", "diff_b"),
)
_CONV3 = re.compile(
    r"resnets_\d+_conv[12]$|samplers_0_conv$|^conv_in$|^conv_out$"
    r"|_in_layers_2$|_out_layers_3$|_0_op$|_blocks_\d+_[12]_conv$|^input_blocks_0_0$|^out_2$"
)
_UNET = re.compile(
    r"(?:input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block|conv_in|conv_out|time_)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterModule:
    """What an adapter holds for one layer.

    Attributes:
        component: Where the layer is; None when the names do not tell.
        name: Its path with underscores for dots and without the part: `down_blocks_0_…_to_q`, `text_model_encoder_…`.
        dialect: Whose names.
        algorithm: As `FileFacts.algorithms`.
        tensors: kohya's name of the tensor (`lora_down.weight`, `alpha`, `hada_w1_a`, ...) to it.
        names: The same name to the full name in the file.
    """

    component: Component | None
    name: str
    dialect: Dialect
    algorithm: str
    tensors: Mapping[str, TensorFacts]
    names: Mapping[str, str]

    @property
    def rank(self) -> int | None:
        """Rank, or the side of a block of OFT; None for algorithms without one, and where all is full."""
        return find_rank(self.algorithm, {name: tensor.shape for name, tensor in self.tensors.items()})

    @property
    def input_width(self) -> int | None:
        """Inputs (channels) of the layer, as far as the tensors tell."""
        return find_input_width(self.algorithm, {name: tensor.shape for name, tensor in self.tensors.items()})

    @property
    def is_conv3(self) -> bool:
        """Tell whether the layer is a 3x3 convolution: by its name, since factors may be flat."""
        return self.component == "unet" and bool(_CONV3.search(self.name))

    @property
    def is_tucker(self) -> bool:
        """Tell whether the kernel is a factor of its own (CP or Tucker)."""
        return bool({"lora_mid.weight", "hada_t1", "lokr_t2"} & self.tensors.keys())

    @property
    def layer(self) -> Layer:
        """What kind of layer it is."""
        return find_layer(self.name, self.algorithm)

    @property
    def block(self) -> str:
        """Where it is: `down_0`, `mid`, `up_3`, `in_4`, `out_2` (webui's numbers), `layer_11`; "" at the ends."""
        return find_block(self.name)


def split_modules(tensors: Mapping[str, TensorFacts]) -> tuple[list[AdapterModule], list[str]]:
    """Group an adapter's tensors by layer.

    Returns:
        The modules in the order of the file, and the names that belong to none.
    """
    groups: dict[tuple[Dialect, str, Component | None, str], dict[str, str]] = {}
    strays = []
    for name in tensors:
        place = split_name(name)
        if place is None:
            strays.append(name)
        else:
            dialect, component, module, leaf, owner = place
            groups.setdefault((dialect, owner, component, module), {})[leaf] = name
    modules = []
    for (dialect, _, component, module), names in groups.items():
        algorithm = _algorithm({leaf: tensors[name].shape for leaf, name in names.items()})
        if not algorithm:
            strays.extend(names.values())
            continue
        facts = {leaf: tensors[name] for leaf, name in names.items()}
        modules.append(
            AdapterModule(
                component=component, name=module, dialect=dialect, algorithm=algorithm, tensors=facts, names=names
            )
        )
    return modules, strays


def split_name(name: str) -> tuple[Dialect, Component | None, str, str, str] | None:
    """Split a tensor's name.

    Returns:
        Dialect, component, layer's name with underscores, tensor as kohya calls it, and what sets equal layers of one
        file apart (HCP's running average); None when it is no adapter's.
    """
    if match := _KOHYA.fullmatch(name):
        prefix, module, leaf = match.groups()
        return "kohya", _KOHYA_PARTS.get(prefix), module, leaf, prefix
    if ".___." in name and (match := _HCP.fullmatch(name)):
        part, module, leaf = match.groups()
        if leaf not in _HCP_LEAVES:
            return None
        component, module = _split_part({"denoiser.": "unet.", "TE.": ""}.get(part or "", "") + module)
        return "hcp", component, module, _HCP_LEAVES[leaf], name.partition(":")[0] if ":" in name else ""
    if match := _PEFT.fullmatch(name):
        component, module = _split_part(match[1])
        return "diffusers", component, module, _PEFT_LEAVES[match[2]], ""
    if match := _OLD.fullmatch(name):
        layer = f".{match[2]}" if match[2] else ""
        component, module = _split_part(match[1] + (".to_out.0" if layer == ".to_out" else layer))
        return "diffusers_old", component, module, _OLD_LEAVES[match[3]], ""
    return None


def common_dialect(modules: Iterable[AdapterModule]) -> Dialect | None:
    """Name the dialect of a file's modules: `mixed` when there are several, None when there is no module."""
    found = {module.dialect for module in modules}
    return found.pop() if len(found) == 1 else ("mixed" if found else None)


def common_algorithms(modules: Iterable[AdapterModule]) -> tuple[str, ...]:
    """List the algorithms, the most frequent first."""
    return tuple(name for name, _ in Counter(module.algorithm for module in modules).most_common())


def find_rank(algorithm: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Give the rank by the rule the webuis read it by (formats of kohya and LyCORIS)."""
    if algorithm == "glora":
        return _glora_rank(shapes)
    signs = {"lora": ("lora_down.weight",), "loha": ("hada_w1_b",), "lokr": ("lokr_w2_b", "lokr_w1_b")}
    for name in signs.get(algorithm, ()):
        if shapes.get(name):
            return shapes[name][0]
    blocks = shapes.get("oft_blocks", ())
    return blocks[-1] if algorithm in {"diag-oft", "boft"} and blocks else None


def _glora_rank(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Give the side that all four factors share; the old layout has the letters a and b exchanged."""
    factors = [shapes.get(name, ()) for name in ("a1.weight", "a2.weight", "b1.weight", "b2.weight")]
    if any(len(shape) < 2 for shape in factors):
        return None
    return factors[2][1] if is_new_glora(shapes) else factors[0][0]


def is_new_glora(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell LyCORIS' present layout of GLoRA (`a1` is (in, r)) from the old one (`a1` is (r, in)), as ComfyUI does.

    Factors of a layer with as many inputs as outputs fit both; there the smaller side is the rank.
    """
    a1, a2, b1, b2 = (shapes.get(f"{name}.weight", ()) for name in ("a1", "a2", "b1", "b2"))
    if min(map(len, (a1, a2, b1, b2))) < 2:
        return True
    fits_new = a1[1] == a2[0] == b1[1] == b2[0]
    fits_old = a1[0] == a2[1] == b1[0] == b2[1]
    return fits_new and not (fits_old and a1[0] < a1[1])


def find_input_width(algorithm: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Tell the inputs of the layer an adapter's tensors fit."""
    if algorithm == "lokr":
        first = shapes.get("lokr_w1") or shapes.get("lokr_w1_b")
        second = shapes.get("lokr_w2") or shapes.get("lokr_w2_b")
        return first[1] * second[1] if first and second and len(first) > 1 and len(second) > 1 else None
    signs = {"lora": "lora_down.weight", "loha": "hada_w1_b", "full": "diff", "glora": "b2.weight"}
    shape = shapes.get(signs.get(algorithm, ""), ())
    return shape[1] if len(shape) > 1 else None


def find_layer(name: str, algorithm: str = "") -> Layer:
    """Sort a layer by its name, of either UNet naming or of a text encoder."""
    if algorithm == "norms":
        return "norm"
    for pattern, layer in _LAYERS:
        if re.search(pattern, name):
            return layer
    return "other"


_LAYERS: tuple[tuple[str, Layer], ...] = (
    (r"_attn\d?_to_|_self_attn_", "attention"),
    (r"_ff_net_|_mlp_fc", "feed_forward"),
    (r"_proj_(?:in|out)$", "projection"),
    (r"(?:up|down)samplers?_|_0_op$|_blocks_\d+_[12]_conv$", "sampler"),
    (r"resnets_|_(?:in|emb|out)_layers_|_skip_connection", "resnet"),
    (r"time_emb|add_embedding|label_emb|_embedding$|conv_in$|conv_out$|^input_blocks_0_0$|^out_2$", "embedding"),
    (r"norm", "norm"),
)


def find_block(name: str) -> str:
    """Name the block a layer is in; see `AdapterModule.block`."""
    if match := re.match(r"(down|up)_blocks_(\d+)_", name):
        return f"{match[1]}_{match[2]}"
    if match := re.match(r"(in|out)put_blocks_(\d+)_", name):
        return f"{match[1]}_{match[2]}"
    if name.startswith(("mid_block", "middle_block")):
        return "mid"
    match = re.search(r"encoder_layers_(\d+)_", name)
    return f"layer_{match[1]}" if match else ""


def _split_part(path: str) -> tuple[Component | None, str]:
    """Take the part off a dotted path; without one, the first word tells."""
    for prefix, component in _DOTTED_PARTS:
        if path.startswith(prefix):
            return component, path.removeprefix(prefix).replace(".", "_")
    name = path.replace(".", "_")
    if _UNET.match(path):
        return "unet", name
    return ("text_encoder" if path.startswith(("text_model.", "encoder.layers.")) else None), name


def _algorithm(shapes: Mapping[str, tuple[int, ...]]) -> str:
    for algorithm, sign in _SIGNS:
        if sign in shapes:
            return "boft" if sign == "oft_blocks" and len(shapes[sign]) == 4 else algorithm
    return ""
