from __future__ import annotations

import pytest


def test_a_whole_value_keeps_its_type(load_text):
    loaded = load_text("train: {steps: 500}\nsave: {every_steps: '${train.steps}'}\n")
    assert (loaded.options.save.every_steps, loaded.origins["save.every_steps"]) == (500, "run.yaml:2")


def test_a_list_can_be_referred_to(load_text):
    loaded = load_text(
        "train: {optimizer: {betas: [0.5, 0.6]}}\npreview: {prompts: ['a', '${output.name}']}\n", "output.name=x"
    )
    assert loaded.options.preview.prompts == ("a", "x")


def test_an_option_that_is_not_written_stands_for_its_default(load_text):
    assert load_text("lora: {te_lr: '${train.lr}'}").options.lora.te_lr == 1e-4


def test_inside_text_a_reference_becomes_text_as_it_was_written(load_text):
    text = "train: {lr: 1e-4, seed: 7}\noutput:\n  name: ${lora.rank}-lr${train.lr}-s${train.seed}\n"
    assert load_text(text).options.output.name == "16-lr1e-4-s7"


def test_references_lead_on_and_through_sections(load_text):
    text = "save: {every_steps: '${train.steps}'}\ntrain: {steps: '${preview.steps}'}\npreview: {steps: 33}\n"
    assert load_text(text).options.save.every_steps == 33


def test_overrides_change_what_references_stand_for(load_text):
    assert load_text("lora: {te_lr: '${train.lr}'}", "train.lr=0.5").options.lora.te_lr == 0.5


@pytest.mark.parametrize("formula", ["${eval:512*768}", '${hcp.eval:"512*768"}', "'${eval: 512 * ${preview.steps} }'"])
def test_arithmetic_is_calculated(load_text, formula):
    assert load_text(f"preview: {{steps: 768}}\ntrain:\n  steps: {formula}\n").options.train.steps == 393216


def test_a_doubled_dollar_is_a_plain_one(load_text):
    assert load_text("output: {comment: 'a $${b} $5 $$${c}'}").options.output.comment == "a ${b} $5 $${c}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lr: '${train.lr}'}", "train.lr: references go round in a circle: train.lr -> train.lr (run.yaml:1)"),
        ("train: {lr: '${train.x}'}", "train.lr: no option 'train.x' to refer to (run.yaml:1)"),
        ("train: {lr: '${a b}'}", "train.lr: 'a b' is not the name of an option, nor eval:... (run.yaml:1)"),
        ("train: {lr: '${train'}", "train.lr: '${' without its '}'; write '$${' for a plain '${' (run.yaml:1)"),
        ("train: {lr: '${eval:1/0}'}", "train.lr: cannot calculate '1/0' (run.yaml:1)"),
        ("train: {lr: '${env:HOME}'}", "train.lr: 'env:HOME' is not the name of an option, nor eval:... (run.yaml:1)"),
        (
            "output: {comment: 'a${preview.prompts}'}",
            "output.comment: ${preview.prompts} is not a single value, and cannot stand inside text (run.yaml:1)",
        ),
        (
            "data: {subsets: [{path: a, class_text: '${data.subsets}'}]}",
            "data.subsets.0.class_text: references go round in a circle: "
            "data.subsets.0.class_text -> data.subsets.0.class_text (run.yaml:1)",
        ),
    ],
)
def test_what_cannot_be_resolved_is_told_once(problems_of, text, message):
    assert problems_of(text) == [message]


def test_a_circle_is_told_for_each_option_in_it(problems_of):
    assert problems_of("train: {lr: '${lora.te_lr}'}\nlora: {te_lr: '${train.lr}'}\n") == [
        "train.lr: references go round in a circle: train.lr -> lora.te_lr -> train.lr (run.yaml:1)",
        "lora.te_lr: references go round in a circle: lora.te_lr -> train.lr -> lora.te_lr (run.yaml:2)",
    ]


def test_references_cannot_stand_for_a_billion_values(problems_of):
    levels = [f"a{i}: ['${{a{i - 1}}}'" + f", '${{a{i - 1}}}'" * 8 + "]" for i in range(1, 10)]
    problems = problems_of("\n".join(["a0: [1]", *levels]))
    assert "a9.0: references stand for too many values (run.yaml:10)" in problems


def test_references_cannot_stand_for_endless_text(problems_of):
    levels = [f"a{i}: '" + f"${{a{i - 1}}}" * 9 + "'" for i in range(1, 4)]
    problems = problems_of("\n".join(["a0: " + "a" * 1000, *levels]))
    assert "a3: references stand for too much text (run.yaml:4)" in problems
