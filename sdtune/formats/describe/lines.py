"""The document in words: rows of a label and a text, for people to read."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sdtune.formats.families import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Document = Mapping[str, Any]
    Row = tuple[str, str]

_KINDS = {
    "checkpoint": "checkpoint",
    "diffusers_folder": "diffusers folder",
    "lora": "LoRA",
    "lycoris": "LyCORIS",
    "embedding": "embedding (textual inversion)",
    "hypernetwork": "hypernetwork",
    "vae": "VAE",
    "unet": "UNet alone",
    "text_encoder": "text encoder alone",
    "controlnet": "ControlNet",
    "unknown": "of no known kind",
}
_ALGORITHMS = {
    "lora": "LoRA", "loha": "LoHa", "lokr": "LoKr", "full": "full differences", "ia3": "(IA)3", "diag-oft": "diag-OFT",
    "boft": "BOFT", "glora": "GLoRA", "norms": "norms",
}  # fmt: skip
_DIALECTS = {
    "kohya": "kohya's, as webuis read them",
    "diffusers": "diffusers' (PEFT)",
    "diffusers_old": "diffusers' of old",
    "hcp": "HCP-Diffusion's",
    "mixed": "of several programs",
}
_PARTS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "text encoder 2"}
_LAYERS = {
    "attention": "attention",
    "feed_forward": "feed-forward",
    "projection": "projection in and out",
    "resnet": "resnet",
    "resnet_conv3": "resnet 3x3",
    "sampler": "up- and downsampler",
    "sampler_conv3": "up- and downsampler",
    "embedding": "first, last and time",
    "embedding_conv3": "first and last 3x3",
    "norm": "norm",
    "other": "other",
}
_DTYPES = {
    "F32": "fp32",
    "F16": "fp16",
    "BF16": "bf16",
    "F64": "fp64",
    "F8_E4M3": "fp8 (e4m3)",
    "F8_E5M2": "fp8 (e5m2)",
}
_PREDICTIONS = {
    "epsilon": "noise (epsilon)",
    "v_prediction": "velocity (v)",
    "sample": "the picture (x_0)",
    None: "nothing that is trained here",
}
_MOST_NAMED = 3


def to_rows(document: Document) -> list[Row]:
    """Write the whole document in rows; an empty label goes on with the row above."""
    rows = [
        *_file_rows(document),
        *_section_rows(document),
        *_training_rows(document["training"]),
        *_hash_rows(document["hashes"]),
        *_weight_rows(document.get("weights")),
    ]
    if document["sidecars"]:
        rows.append(("beside it", ", ".join(document["sidecars"])))
    rows += _listed("loads in", [_reader(answer) for answer in document.get("loads_in", [])])
    rows += _listed("note", document["remarks"])
    return [(label, text) for label, text in rows if text]


def _file_rows(document: Document) -> Iterator[Row]:
    family = document["family"]
    title = f" for {TITLES[family]}" if family else ""
    yield "file", PurePath(document["path"]).name
    yield "kind", f"{_kind(document)}{title}"
    yield "family", document["family_reason"] if family else f"not known: {document['family_reason']}"
    dtypes = ", ".join(_share(name, share, document) for name, share in document["dtypes"].items())
    counts = f"{count_of(document['tensors'], 'tensor')}, {short_number(document['parameters'])} parameters"
    yield "size", f"{short_bytes(document['size_bytes'])}, {counts}, {dtypes}"
    if document["form"] in {"pickle", "picture"}:
        yield (
            "form",
            {"pickle": "a pickled file, read as data", "picture": "a picture with the file inside"}[document["form"]],
        )


def _kind(document: Document) -> str:
    if document["kind"] not in {"lora", "lycoris"}:
        return _KINDS[document["kind"]]
    adapter = document["adapter"]
    title = "LoRA" if document["kind"] == "lora" else " and ".join(_ALGORITHMS[name] for name in adapter["algorithms"])
    if title == "LoRA" and adapter["conv3_modules"]:
        title = "LoCon (LoRA with 3x3 convolutions)"
    extras = [name for name, key in (("DoRA", "dora_modules"), ("Tucker", "tucker_modules")) if adapter[key]]
    return f"{title}, {', '.join(extras)}" if extras else title


def _share(name: str, share: Mapping[str, int], document: Document) -> str:
    title = _DTYPES.get(name, name.lower())
    return title if len(document["dtypes"]) == 1 else f"{title} ({share['tensors']:,})"


def _section_rows(document: Document) -> list[Row]:
    for name, write in (("adapter", _adapter_rows), ("model", _model_rows), ("embedding", _embedding_rows)):
        if name in document:
            return list(write(document[name]))
    return list(_network_rows(document["hypernetwork"])) if "hypernetwork" in document else []


def _adapter_rows(adapter: Document) -> Iterator[Row]:
    yield "names", _DIALECTS[adapter["dialect"]]
    yield "factors", _factors(adapter)
    for part, found in adapter["parts"].items():
        yield _PARTS.get(part, part), f"{count_of(found['modules'], 'layer')} ({_join_blocks(found['blocks'])})"
        same = _all_same(found["layers"], adapter)
        for layer, group in found["layers"].items():
            detail = "" if same else f", {_factors(group)}" if group["rank"] else ""
            yield "", f"{group['modules']:>4} {_LAYERS.get(layer, layer)}{detail}"
    if adapter["dora_axis"]:
        yield "DoRA", f"{adapter['dora_modules']} layers, by {adapter['dora_axis']}"
    yield "bundled", ", ".join(adapter["bundled_embeddings"])


def _factors(group: Document) -> str:
    return ", ".join(f"{name} {_spread(group[name])}" for name in ("rank", "alpha", "scale") if group[name])


def _all_same(layers: Mapping[str, Document], adapter: Document) -> bool:
    return all(
        group[name] in (None, adapter[name]) and (group[name] is None or group[name]["min"] == group[name]["max"])
        for group in layers.values()
        for name in ("rank", "alpha")
    )


def _spread(found: Mapping[str, float]) -> str:
    if found["min"] == found["max"]:
        return f"{found['min']:g}"
    return f"{found['min']:g} to {found['max']:g}, mostly {found['most']:g}"


def _join_blocks(blocks: Mapping[str, int]) -> str:
    """Name the blocks, numbers in a row as one: `down 0-2, mid, up 1-3`."""
    numbers: dict[str, list[int]] = {}
    for block in blocks:
        name, _, number = block.partition("_")
        numbers.setdefault(name, []).extend([int(number)] if number else [])
    order = ["down", "in", "mid", "up", "out", "layer", "ends"]
    names = sorted(numbers, key=lambda name: order.index(name) if name in order else len(order))
    return ", ".join(f"{name} {_ranges(numbers[name])}".strip() for name in names)


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _model_rows(model: Document) -> Iterator[Row]:
    if "task" in model:
        yield "made for", f"{model['task']}, {model['input_channels']} channels in"
        prediction = model["prediction"]
        yield "predicts", f"{_PREDICTIONS[prediction['kind']]}: {prediction['reason']}"
        yield "last step", "pure noise (zero terminal SNR)" if prediction["zero_terminal_snr"] else ""
    for part, found in model["parts"].items():
        dtypes = ", ".join(_DTYPES.get(name, name.lower()) for name in found["dtypes"])
        text = f"{found['tensors']:,} tensors, {short_number(found['parameters'])} parameters, {dtypes}"
        state = f", {len(found['missing'])} missing" if found["missing"] else ", whole"
        layers = f", {found['layers']} layers, {found['width']} wide" if "layers" in found else ""
        yield _PARTS[part], text + layers + state
    others = [f"EMA {model['ema_tensors']:,} tensors" if model["ema_tensors"] else "", *model["other_parts"]]
    if model["schedule_buffers"]:
        others.append(f"{model['schedule_buffers']} buffers of the noise schedule")
    yield "also", ", ".join(other for other in others if other)


def _embedding_rows(embedding: Document) -> Iterator[Row]:
    yield "word", embedding["name"]
    for encoder, found in embedding["encoders"].items():
        norms = [norm for norm in found["norms"] if norm is not None]
        lengths = f", lengths {min(norms):.3g} to {max(norms):.3g}" if norms else ""
        yield (
            encoder.replace("_", "-").upper() if len(embedding["encoders"]) > 1 else "vectors",
            f"{count_of(found['vectors'], 'vector')} {found['width']} wide{lengths}",
        )
    yield from _base_rows(embedding)


def _network_rows(network: Document) -> Iterator[Row]:
    yield "name", network["name"] or ""
    yield "widths", ", ".join(str(size) for size in network["sizes"])
    structure = ", ".join(f"{side:g}" for side in network["structure"])
    norm = ", layer norms" if network["layer_norm"] else ""
    output = ", output activated" if network["activate_output"] and network["activation"] != "linear" else ""
    dropout = ", dropout" if network["dropout"] or network["uses_dropout"] else ""
    yield "structure", f"{structure}; {network['activation']}{output}{norm}{dropout}"
    yield from _base_rows(network)


def _base_rows(section: Document) -> Iterator[Row]:
    if section["step"]:
        yield "trained for", count_of(section["step"], "step")
    digest = f" [{section['base_hash']}]" if section["base_hash"] else ""
    yield "trained on", f"{section['base_model'] or ''}{digest}".strip()


def _training_rows(training: Document) -> Iterator[Row]:
    yield "trigger", training.get("trigger", "")
    yield "tags", ", ".join(f"{item['tag']} ({item['count']})" for item in training.get("tags", []))
    yield "trained on", training.get("base_model", "")
    yield "trained for", _duration(training)
    rates = {"": "learning_rate", "UNet ": "unet_lr", "text ": "text_encoder_lr"}
    told = [f"{title}{training[key]}" for title, key in rates.items() if key in training]
    yield "rate", ", ".join(told) + (f"; {training['schedule']}" if told and "schedule" in training else "")
    yield "optimizer", training.get("optimizer", "")
    yield "images", _images(training)
    yield "comment", training.get("comment", "")
    by = f"sdtune {training['sdtune_version']}" if "sdtune_version" in training else training.get("network_module", "")
    yield "made", " with ".join(text for text in (training.get("date", "")[:16].replace("T", " "), by) if text)


def _duration(training: Document) -> str:
    texts = [count_of(training[key], key.removesuffix("s")) for key in ("steps", "epoch") if key in training]
    if "batch_size" in training:
        texts.append(f"batches of {training['batch_size']}")
    if training.get("seconds"):
        texts.append(_time(training["seconds"]))
    return ", ".join(texts)


def _time(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h {seconds // 60 % 60} min"


def _images(training: Document) -> str:
    folders = ", ".join(
        f"{folder['repeats']}x {folder['name']} ({folder['images']})" for folder in training.get("folders", [])
    )
    count = f"{training['images']:,} with repeats" if "images" in training else ""
    size = f"at {training['resolution']}" if "resolution" in training else ""
    return ": ".join(text for text in (" ".join(text for text in (count, size) if text), folders) if text)


def _hash_rows(hashes: Document) -> Iterator[Row]:
    if "sha256" in hashes:
        short = f" (in webui {hashes['short']})" if "short" in hashes else ""
        yield "sha256", f"{hashes['sha256']}{short}"
    known = hashes.get("tensors_sha256") or hashes.get("stated")
    if known:
        states = {
            "true": "as its metadata states",
            "stale": "its metadata states another one",
            "unchecked": "by its metadata, not checked",
        }
        yield "tensors' hash", f"{known[:12]} ({states.get(hashes.get('state', ''), 'its metadata states none')})"


def _weight_rows(weights: Document | None) -> Iterator[Row]:
    if weights is None:
        return
    bad = weights["not_finite"]
    named = f" in {bad['tensors']} tensors, e.g. {bad['names'][0]}" if bad["names"] else ""
    yield "not finite", f"{bad['elements']:,} numbers{named}" if bad["elements"] else "nothing"
    yield "largest", f"{weights['largest']['value']:g} in {weights['largest']['tensor']}"
    strength = weights["strength"]
    if strength and strength["modules"]:
        top = strength["largest"]
        yield "strength", f"mean |dW| {strength['mean']:.4g}, largest {top['value']:.4g} in {top['module']}"
    elif strength:
        yield "strength", "depends on the base model"


def _reader(answer: Mapping[str, str]) -> str:
    words = {"yes": "yes", "partly": "partly", "wrong": "with another effect", "no": "no"}
    return f"{answer['program']:<11} {words[answer['answer']]}" + (f": {answer['reason']}" if answer["reason"] else "")


def _listed(label: str, texts: list[str]) -> list[Row]:
    return [(label if index == 0 else "", text) for index, text in enumerate(texts)]


def count_of(count: int, thing: str) -> str:
    """Write `1 step`, `2,000 steps`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def short_bytes(count: int) -> str:
    """Write a size with three digits: `37.9 MB`."""
    return f"{short_number(count, units=('bytes', 'kB', 'MB', 'GB', 'TB'))}"


def short_number(count: float, units: tuple[str, ...] = ("", "thousand", "million", "billion", "trillion")) -> str:
    """Write a number with three digits and a unit: `18.9 million`."""
    unit = 0
    while count >= 1000 and unit < len(units) - 1:
        count, unit = count / 1000, unit + 1
    digits = f"{count:.0f}" if unit == 0 or count >= 100 else f"{count:.3g}"
    return f"{digits} {units[unit]}".strip()
