"""The kit lets a right method pass, and catches each wrong one by the check that names what is wrong."""

import subprocess
import sys

import pytest
from safetensors.torch import load_file

import sdtune_toy
import sdtune_toy_heavy
from sdtune.testing import list_method_checks, method_checks
from sdtune.testing.conformance.kit import CHECKS


def merge(model, path):
    """Add a LoRA to the weights; a missing alpha means the rank."""
    tensors = load_file(path)
    for target in model.targets(("unet",)):
        key = model.webui_key(target.path)
        if (down := tensors.get(f"{key}.lora_down.weight")) is not None:
            scale = tensors.get(f"{key}.alpha", len(down)) / len(down)
            target.module.weight += scale * tensors[f"{key}.lora_up.weight"] @ down


CAUGHT = [
    ("undocumented", "describes_its_options", "without a docstring: secret"),
    ("unbounded", "bounds_its_options", "without bounds; .*: scale"),
    ("thawed", "freezes_its_options", "rank can be changed"),
    ("required", "has_defaults", "without a default: word"),
    ("left_out", "declares_what_it_trains", "require a gradient, but are in no group: unet.*up and 1 more"),
    ("unreached", "reaches_every_parameter", "get no gradient: idle"),
    ("shifted", "starts_as_the_base", "the first answer is off by"),
    ("stuck", "moves_every_parameter", "did not change in 3 steps: .*down"),
    ("touching", "moves_nothing_else", r"changed, but are in no group: .*base\.weight$"),
    ("unseeded", "repeats_itself", "start differently with one seed"),
    ("impure", "keeps_its_prediction", "a loaded checkpoint answers off by"),
    ("forgetful", "resumes_bit_for_bit", "losses differ after resuming"),
    ("batchwise", "accumulates_as_a_batch", "loss of step 1 is"),
    ("impure", "checkpoints_gradients", "gradient checkpointing changes the training"),
    ("bf16_lover", "computes_in_bf16", "bf16 is far from fp32"),
    ("stale", "swaps_averages", "the file does not hold the average"),
    ("misnamed", "exports_readable_files", "names layers the model has not"),
    ("silent", "tells_metadata", "does not tell: ss_base_model_version"),
    ("moody", "exports_equal_bytes", "differ between two exports: kit.safetensors"),
    ("no_alpha", "reloads_the_prediction", "effect is off by"),
    ("transposed", "reloads_the_prediction", "effect is off by"),
]


def find(name, check, plugin=sdtune_toy):
    return next(found for found in list_method_checks([plugin], name, reload=merge) if found.name == check)


@pytest.mark.slow
@method_checks([sdtune_toy], "toy", reload=merge)
def test_a_right_method_passes(check, tmp_path):
    check(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "check", "message"), CAUGHT)
def test_a_fault_is_caught(fault, check, message, tmp_path):
    with pytest.raises(AssertionError, match=message):
        find(fault, check)(tmp_path)


@pytest.mark.slow
def test_a_heavy_import_is_caught(tmp_path):
    with pytest.raises(AssertionError, match=r"imports heavy packages.*torch"):
        find("toy", "imports_nothing_heavy", sdtune_toy_heavy)(tmp_path)


def test_each_check_has_caught_something():
    caught = {check for _, check, _ in CAUGHT} | {"imports_nothing_heavy", "refuses_other_families"}
    assert {check.__name__ for check in CHECKS} == caught


def test_what_is_not_claimed_is_not_checked():
    names = {check.name for check in list_method_checks([sdtune_toy], "toy", is_identity_at_start=False)}
    assert names.isdisjoint({"starts_as_the_base", "reloads_the_prediction"})
    assert len(names) == len(CHECKS) - 2


def test_known_failures_are_marked_and_must_fail():
    mark = method_checks([sdtune_toy], "toy", known_failures={"has_defaults": "a reason"}).mark
    marked = {row.id: row.marks for row in mark.args[1] if row.marks}
    (xfail,) = marked.pop("has_defaults")
    assert (xfail.name, xfail.kwargs) == ("xfail", {"strict": True, "reason": "a reason"})
    assert not marked


@pytest.mark.parametrize(
    ("claims", "message"),
    [({"families": ["sd9"]}, "no tiny model of"), ({"known_failures": {"is_quick": "no"}}, "names no check")],
)
def test_a_claim_that_means_nothing_is_refused(claims, message):
    with pytest.raises(ValueError, match=message):
        list_method_checks([sdtune_toy], "toy", **claims)


@pytest.mark.slow
def test_importing_the_package_imports_no_torch():
    code = "import sys, sdtune.testing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
