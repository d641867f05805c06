"""LoRA with names of diffusers, PEFT and HCP-Diffusion: one effect under many names, and who reads which."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.export.certificate import certify
from sdtune.export.probe import Probe
from sdtune.formats.consumers.applying import view_of
from sdtune.formats.consumers.definition import read_adapters
from sdtune.formats.consumers.reading import File, open_file
from sdtune.formats.consumers.table import CONSUMERS
from sdtune.formats.describe.readers import describe_readers
from sdtune.formats.recognize import recognize
from sdtune.testing.runner import command

pytestmark = pytest.mark.slow

FAMILIES = ("sd1", "sd2", "sdxl")
PROBE = Probe(captions=("a photo of zwx", "a red circle"))
ALPHA, RANK = 3.0, 2
TOLD = {f"{part}.lora_alpha": ALPHA for part in ("unet", "text_encoder", "text_encoder_2")}


def paths_of(base):
    """Give the layer of each key of the fixture `adapter`."""
    targets = [target for target in base.targets(("unet", "text_encoder")) if target.kind in {"attention", "text"}]
    return {base.webui_key(target.path): target.path for target in targets}


def renamed(tensors, base, rule, up=".lora_B.weight", down=".lora_A.weight", alpha=""):
    """Rename a kohya-style file: `rule` makes a name of a layer's path; alpha is left out where it has no end."""
    paths, made = paths_of(base), {}
    for key, tensor in tensors.items():
        layer, _, name = key.partition(".")
        end = {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}[name]
        if end:
            made[f"{rule(paths[layer])}{end}"] = tensor
    return made


def old(path):
    """Name a layer as diffusers did in 2023."""
    return path.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")


def hcp(path):
    module = path.partition(".")[2]
    return f"lora:{module}.___"


def without_unet(path):
    return path.removeprefix("unet.")


def short(path):
    return path.replace(".text_model.", ".")


def peft(path):
    return path.replace("unet.", "base_model.model.unet.", 1)


def path_itself(path):
    return path


FORMS = {
    "diffusers": (path_itself, {}, TOLD),
    "diffusers, bare": (without_unet, {}, TOLD),
    "diffusers, no text_model": (short, {}, TOLD),
    "PEFT": (peft, {}, TOLD),
    "old": (old, {"up": "_lora.up.weight", "down": "_lora.down.weight", "alpha": ".alpha"}, {}),
    "old, text": (
        path_itself,
        {"up": ".lora_linear_layer.up.weight", "down": ".lora_linear_layer.down.weight", "alpha": ".alpha"},
        {},
    ),
    "HCP": (hcp, {"up": ".layer.W_up", "down": ".layer.W_down", "alpha": ".alpha"}, {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_means_the_same_under_every_name(form, open_base, adapter, file):
    base = open_base("sd1")
    tensors, (rule, ends, told) = adapter(base, alpha=ALPHA), FORMS[form]
    made = renamed(tensors, base, rule, **ends)
    if form == "HCP":  # which stores what multiplies up @ down
        made = {key: tensor / RANK if key.endswith(".alpha") else tensor for key, tensor in made.items()}
    metadata = {"lora_adapter_metadata": json.dumps(told)} if told else {}
    other = File(path=file({}).path, kind="lora", tensors=made, metadata=metadata)
    one = {use.target: use for use in read_adapters(file(tensors), view_of(base)).uses}
    reading = read_adapters(other, view_of(base))
    assert reading.skipped == {}
    assert reading.used_keys() == made.keys()
    assert {use.target for use in reading.uses} == one.keys()
    for use in reading.uses:
        weight = torch.zeros(view_of(base).shapes[use.target])
        assert torch.equal(use.change(weight), one[use.target].change(weight))


PROGRAMS = {"A1111": "a1111", "Forge": "forge", "ComfyUI": "comfyui", "sd-scripts": "kohya", "diffusers": "diffusers"}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["diffusers", "diffusers, bare", "PEFT", "HCP"])
def test_inspect_names_the_same_programs(form, open_base, adapter, tmp_path):
    base = open_base("sd1")
    rule, ends, _ = FORMS[form]
    made = renamed(
        adapter(base, alpha=RANK), base, rule, **{name: end for name, end in ends.items() if name != "alpha"}
    )
    save_file(made, path := tmp_path / "zwx.safetensors")
    answers = {row["program"]: row["answer"] for row in describe_readers(recognize(path))}
    rows = certify([open_file(path, "lora")], base, PROBE, trained=None).rows
    faults = {row.consumer: fault for row in rows if (fault := row.fault(is_chosen=True))}
    assert {PROGRAMS[name] for name, answer in answers.items() if answer != "yes"} == faults.keys(), faults


ALPHAS = {
    "for all": ({"unet.lora_alpha": 6.0}, 6.0),
    "none": ({}, float(RANK)),
    "of another part": ({"text_encoder.lora_alpha": 6.0}, float(RANK)),
    "a pattern": ({"unet.lora_alpha": 6.0, "unet.alpha_pattern": {"attn1.to_q": 8.0}}, 8.0),
    "the first pattern": ({"unet.lora_alpha": 6.0, "unet.alpha_pattern": {"to_q": 5.0, "attn1.to_q": 8.0}}, 5.0),
    "a pattern of half a word": ({"unet.lora_alpha": 6.0, "unet.alpha_pattern": {"o_q": 8.0}}, 6.0),
    "rank-stabilized": ({"unet.lora_alpha": 6.0, "unet.use_rslora": True}, 6.0 * 2**0.5),
}


@pytest.mark.parametrize("case", ALPHAS)
def test_alpha_in_the_metadata_is_what_diffusers_makes_of_it(case, open_base, tmp_path):
    told, alpha = ALPHAS[case]
    base, layer = open_base("sd1"), "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    up, down = torch.randn(64, RANK), torch.randn(RANK, 64)
    tensors = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    full = {"unet.r": RANK, "unet.target_modules": ["to_q"], **told} if any("unet" in key for key in told) else {}
    metadata = {"lora_adapter_metadata": json.dumps(full)} if full else {}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    opened = open_file(tmp_path / "a.safetensors", "lora")
    for read in (lambda: read_adapters(opened, view_of(base)), lambda: real(opened, base)):
        (use,) = read().uses
        torch.testing.assert_close(use.change(torch.zeros(64, 64)), alpha / RANK * up @ down)


def real(file, base):
    return CONSUMERS["diffusers"](file, view_of(base), base)


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_reads_todays_names_whole(family, open_base, adapter, read):
    base = open_base(family)
    tensors = renamed(adapter(base), base, path_itself)
    assert read("diffusers", tensors, base).used_keys() == tensors.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_todays_names_are_diffusers_own(family, open_base, adapter, read):
    """ComfyUI and Forge look for `processor.` in attention's names; A1111 and kohya's scripts find nothing."""
    base = open_base(family)
    tensors = renamed(adapter(base), base, path_itself)
    attention = {key for key in tensors if ".attn" in key}
    reading = read("comfyui", tensors, base)
    assert (reading.unknown.keys(), reading.used_keys()) == (attention, tensors.keys() - attention)
    assert f"here {len(attention)}: unet." in read("forge", tensors, base).unsupported
    for consumer in ("a1111", "kohya"):
        assert "without a word" in read(consumer, tensors, base).unsupported


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_2023_are_those_of_webuis(family, open_base, adapter, read):
    base = open_base(family)
    tensors = renamed(adapter(base, alpha=RANK), base, old, up="_lora.up.weight", down="_lora.down.weight")
    kohya = adapter(base, alpha=RANK)
    for consumer in ("forge", "comfyui"):
        one, other = ({use.target: use for use in read(consumer, given, base).uses} for given in (kohya, tensors))
        assert one.keys() == other.keys()
        weight = torch.zeros(view_of(base).shapes[name := min(one)])
        assert torch.equal(one[name].change(weight), other[name].change(weight))


@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_2023_work_in_diffusers_too(family, open_base, adapter, read):
    base = open_base(family)
    kohya = adapter(base, alpha=RANK)
    tensors = renamed(kohya, base, old, up="_lora.up.weight", down="_lora.down.weight")
    tensors = {key.replace("_lora.", ".lora.") if ".processor." not in key else key: t for key, t in tensors.items()}
    tensors = {
        key.replace(".lora.", ".lora_linear_layer.") if key.startswith("text") else key: t for key, t in tensors.items()
    }
    for consumer in ("forge", "comfyui", "diffusers"):
        assert read(consumer, tensors, base).used_keys() == tensors.keys()


def test_where_all_names_are_known_alpha_alone_makes_the_difference(open_base, adapter, tmp_path):
    """Layers outside of attention: multiplied in, alpha is read by three programs; in the metadata, by one."""
    base = open_base("sd1")
    whole = renamed(adapter(base, alpha=ALPHA), base, path_itself)
    outside = {key: tensor for key, tensor in whole.items() if ".attn" not in key}
    folded = {key: tensor * ALPHA / RANK if "lora_B" in key else tensor for key, tensor in outside.items()}
    layers = sorted({key.partition(".lora_")[0].partition(".")[2].removeprefix("text_model.") for key in outside})
    told = {"lora_alpha": ALPHA, "r": RANK, "target_modules": layers}
    told = {f"{part}.{name}": value for part in ("unet", "text_encoder") for name, value in told.items()}
    save_file(folded, tmp_path / "folded.safetensors")
    save_file(outside, tmp_path / "told.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    asked = ("forge", "comfyui", "diffusers")
    for name, wrong in {"folded": set(), "told": {"forge", "comfyui"}}.items():
        opened = open_file(tmp_path / f"{name}.safetensors", "lora")
        rows = certify([opened], base, PROBE, trained=None, asked=asked).rows
        assert {row.consumer for row in rows if row.fault(is_chosen=True)} == wrong
        assert not any(row.fault(is_chosen=False) for row in rows)
        assert all("reads no alpha from the metadata" in row.verdict for row in rows if row.consumer in wrong)


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_no_program_reads_the_names_of_hcp(consumer, open_base, adapter, read):
    base = open_base("sd1")
    tensors = renamed(adapter(base), base, hcp, ".layer.W_up", ".layer.W_down", ".alpha")
    reading = read(consumer, tensors, base)
    assert reading.unsupported == "only HCP-Diffusion reads its own names; 'sdtune convert' helps"
    assert reading.uses == []


def test_diffusers_itself_finds_nothing_under_the_names_of_hcp(open_base, adapter):
    """What is told of it above, without asking it."""
    import warnings

    from sdtune.formats.consumers.diffusers import _pipeline, _quiet

    base = open_base("sd1")
    tensors = renamed(adapter(base), base, hcp, ".layer.W_up", ".layer.W_down", ".alpha")
    pipeline = _pipeline("sd1", base)
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(tensors, adapter_name="hcp")
    assert not any("lora_A" in name for name, _ in base.part("unet").named_modules())


def test_a_name_of_no_layer_is_a_fault_in_any_dialect(open_base, read):
    tensors = {"unet.down_blocks.7.proj_in.lora_A.weight": torch.ones(2, 64)}
    tensors |= {"unet.down_blocks.7.proj_in.lora_B.weight": torch.ones(64, 2)}
    base = open_base("sd1")
    assert read("comfyui", tensors, base).skipped.keys() == tensors.keys()
    assert read("forge", tensors, base).skipped.keys() == tensors.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_convert_writes_can_be_verified(family, open_base, adapter, tmp_path, capsys):
    base = open_base(family)
    model = str(base.source.path)
    save_file(adapter(base, alpha=ALPHA), tmp_path / "dog.safetensors")
    for name, *more in (("folded", "--to", "diffusers"), ("told", "--to", "diffusers", "--keep-alpha")):
        path = str(tmp_path / f"{name}.safetensors")
        assert command([], "convert", str(tmp_path / "dog.safetensors"), path, "--family", family, *more) == 0
        capsys.readouterr()
        assert command([], "verify", path, "--model", model, "--json") == 0
        rows = json.loads(capsys.readouterr().out)["programs"]
        assert rows["diffusers"]["verdict"] == "good"
        assert rows["diffusers"]["used"] == len(load_file(path))
        assert "in part: unet." in rows["comfyui"]["verdict"]
        assert "not supported: it drops files" in rows["forge"]["verdict"]
        assert command([], "verify", path, "--model", model, "--for", "comfyui") == 4
    folder = tmp_path / "hcp"
    assert (
        command([], "convert", str(tmp_path / "dog.safetensors"), str(folder), "--family", family, "--to", "hcp") == 0
    )
    capsys.readouterr()
    unet = next(folder.glob("unet*"))
    assert command([], "verify", str(unet), "--model", model) == 4
    assert "no program that was asked can use" in capsys.readouterr().err
