from __future__ import annotations

import pytest

from sdtune.config.overrides import Setting


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnak: 4}", "lora.rnak: unknown option; did you mean 'rank'? (run.yaml:1)"),
        ("rank: 4", "rank: unknown option; did you mean 'lora.rank'? (run.yaml:1)"),
        ("trian: {lr: 4}", "trian: unknown option; did you mean 'train'? (run.yaml:1)"),
        ("zzz: 4", "zzz: unknown option (run.yaml:1)"),
        ("_target_: os.system", "_target_: unknown option (run.yaml:1)"),
        ("train.lr: 4", "train.lr: unknown option; in a file write 'lr' indented below 'train:' (run.yaml:1)"),
        ("data: {subsets: [{path: a, repeat: 4}]}", "data.subsets.0.repeat: unknown option; did you mean 'repeats'?"),
        ("\ntrain:\n  steps: abc", "train.steps: expected a whole number, got 'abc' (run.yaml:3)"),
        ("train: {steps: 1.5}", "train.steps: expected a whole number, got 1.5 (run.yaml:1)"),
        ("train: {steps: true}", "train.steps: expected a whole number, got 'true' (run.yaml:1)"),
        ("train: {lr: fast}", "train.lr: must be a number, or rates as 'rate:step, rate:step, rate', e.g."),
        ("train: {lr: .inf}", "train.lr: expected a finite number or text, got .inf (run.yaml:1)"),
        ("train: {lr: null}", "train.lr: expected a number or text, got null (run.yaml:1)"),
        ("train: {lr: [1]}", "train.lr: expected a number or text, got a list of 1 (run.yaml:1)"),
        ("data: {flip: maybe}", "data.flip: expected true or false, got 'maybe' (run.yaml:1)"),
        ("output: {comment: [a]}", "output.comment: expected text, got a list of 1 (run.yaml:1)"),
        ("output: {dir: [a]}", "output.dir: expected a path, got a list of 1 (run.yaml:1)"),
        ("preview: {prompts: a}", "preview.prompts: expected a list, got 'a' (run.yaml:1)"),
        ("train: 5", "train: expected a section, got 5 (run.yaml:1)"),
        ("data: {path: {a: 1}}", "data.path: expected a path (run.yaml:1)"),
        ("data: {subsets: [{repeats: 2}]}", "data.subsets.0.path: must be given (run.yaml:1)"),
        ("train: {lr: -1}", "train.lr: must be at least 0, got -1 (run.yaml:1)"),
        ("train: {lr: 2000}", "train.lr: must be at most 1000, got 2000 (run.yaml:1)"),
        ("lora: {alpha: 0}", "lora.alpha: must be above 0, got 0 (run.yaml:1)"),
        (
            "train: {seed: 9223372036854775808}",
            "train.seed: must be below 9223372036854775808, got 9223372036854775808",
        ),
        ("data: {buckets: {step_px: 12}}", "data.buckets.step_px: must be a multiple of 8, got 12 (run.yaml:1)"),
        ("output: {name: ''}", "output.name: must have at least 1 characters, got '' (run.yaml:1)"),
        ("output: {name: a/b}", r"output.name: must fit the pattern"),
        ("lora: {window: [1]}", "lora.window.1: must be given (run.yaml:1)"),
        ("lora: {window: [1, 1, 1]}", "lora.window: must have at most 2 items, got a list of 3"),
        (
            "save: {dtype: bf61}",
            "save.dtype: expected one of fp32, fp16, bf16, got 'bf61'; did you mean 'bf16'? (run.yaml:1)",
        ),
        (
            "data: {resolution: 511}",
            "data.resolution: must be a side in px or WIDTHxHEIGHT, multiples of 8, e.g. 512 or 640x448, got '511'",
        ),
        ("train: {steps: 1, epochs: 1}", "train: give either steps or epochs, not both (run.yaml:1)"),
        ("train: {min_timestep: 9, max_timestep: 9}", "train: min_timestep must be below max_timestep (run.yaml:1)"),
        ("data: {path: a, subsets: [{path: a}]}", "data: give either path or subsets, not both (run.yaml:1)"),
        ("lora: {mode: [a]}", "lora.mode: expected text or a number, got a list of 1 (run.yaml:1)"),
        ("lora: {block_ranks: {mid: x}}", "lora.block_ranks.mid: expected a whole number, got 'x' (run.yaml:1)"),
        ("lora: {layers: {kind: plain, size: 0}}", "lora.layers.size: must be at least 1, got 0 (run.yaml:1)"),
        ("lora: {layers: {kind: other, fcator: 1}}", "lora.layers.fcator: unknown option; did you mean 'factor'?"),
        (
            "lora: {layers: {kind: plain, factor: 1}}",
            "lora.layers.factor: unknown option; it belongs to another choice made in this section (run.yaml:1)",
        ),
        ("lora: {layers: {kind: odd}}", "lora.layers.kind: expected one of plain, other, got 'odd' (run.yaml:1)"),
        ("lora: {layers: {size: 1}}", "lora.layers.kind: must be given (run.yaml:1)"),
        ("lora: {layers: 5}", "lora.layers: expected a section, got 5 (run.yaml:1)"),
        ("method: lorra", "unknown method 'lorra'; did you mean 'lora'? (run.yaml:1)"),
        ("method: ti\nwords: {token: a}\nlora: {}", "lora: section of another method; this run's method is 'words'"),
        ("method: words", "words.token: must be given (run.yaml:1)"),
        ('"a\\e[31m": 1', "a\\x1b[31m: unknown option (run.yaml:1)"),
        ("train: {steps: " + "x" * 99 + "}", f"train.steps: expected a whole number, got '{'x' * 59}…' (run.yaml:1)"),
    ],
)
def test_a_problem_is_told_in_one_plain_line(problems_of, text, message):
    problems = problems_of(text)
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_the_place_is_the_flag_that_set_the_value(problems_of):
    flags = (Setting(option="train.lr", value=-1, flag="--lr"),)
    assert problems_of("train: {lr: 1}", flags=flags) == ["train.lr: must be at least 0, got -1 (--lr)"]


def test_all_problems_are_told_at_once(problems_of):
    problems = problems_of("method: lorra\nlora: {rank: x}\ntrain: {lr: -1, steps: '${a}'}\nlgo: 1\n", "train.seed.a=1")
    assert [problem.split(":")[0] for problem in problems] == [
        "unknown method 'lorra'; did you mean 'lora'? (run.yaml",
        "train.steps",
        "train.lr",
        "train.seed",
        "lgo",
    ]


def test_the_section_of_a_method_is_called_by_its_name(problems_of):
    assert "ti: unknown option; the section is called 'words' (run.yaml:2)" in problems_of("method: ti\nti: {token: a}")


def test_a_flood_of_problems_is_cut(problems_of):
    problems = problems_of("\n".join(f"k{index}: 1" for index in range(150)))
    assert (len(problems), problems[-1]) == (101, "and 50 more")
