"""What a search will need, class by class, and what is never tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState as OptunaState
from searches import board, searched
from tune_lora.search import course, plan_facts
from tune_lora.search.classes import size_classes, size_fields, size_key
from tune_lora.search.layout import Layout
from tune_lora.search.plan import MARGIN, TRACED, Plan
from tune_lora.search.plan_facts import Capacity, Lengths, capacity
from tune_lora.search.plan_text import as_json, plan_lines, table, varying
from tune_lora.search.plan_time import seconds
from tune_lora.search.planning import Gpus, Outlook, look_ahead
from tune_lora.search.resources import Allocation
from tune_lora.search.study import Study
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.footprint import GPU_CONTEXT

SpaceOf = Callable[..., Space]
GIB = 2**30
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def test_classes_differ_in_what_a_trial_weighs(space_of: SpaceOf) -> None:
    space = space_of(
        lora={"r": {"choice": [2, 4, 8]}, "target_modules": {"choice": ["qv", "mlp"]}},
        train={"gradient_checkpointing": {"choice": [True, False]}},
        search={"baseline": False},
    )
    found = size_classes(space)
    keys = {
        (v["lora"]["r"], v["lora"]["target_modules"], v["train"]["gradient_checkpointing"])
        for v in found
    }
    assert len(found) == len(keys) == 12


def test_ranges_count_with_both_ends_and_rates_not_at_all(space_of: SpaceOf) -> None:
    space = space_of(
        lora={"r": {"int": [3, 40]}, "lora_alpha": {"choice": [8, 16]}},
        search={"baseline": True},
    )
    assert sorted(values["lora"]["r"] for values in size_classes(space)) == [3, 8, 40]


def test_what_an_option_brings_counts(space_of: SpaceOf) -> None:
    dora = {"value": True, "with": {"lora.r": {"choice": [16, 32]}}}
    space = space_of(lora={"use_dora": {"choice": [False, dora]}}, search={"baseline": False})
    found = {(v["lora"]["use_dora"], v["lora"]["r"]) for v in size_classes(space)}
    assert found == {(False, 2), (False, 4), (True, 16), (True, 32)}


def test_dropout_is_there_or_not(space_of: SpaceOf) -> None:
    space = space_of(
        lora={"r": 2, "lora_dropout": {"choice": [0.0, 0.05, 0.1]}}, search={"baseline": False}
    )
    assert [size_fields(v)["lora.lora_dropout"] for v in size_classes(space)] == [False, True]


@pytest.fixture
def llama_70b(tmp_path: Path) -> Callable[..., Outlook]:
    """``llama_70b("model.quantization=none")``: a plan from a config alone, for a GPU of 80 GiB."""
    folder = tmp_path / "Llama-3-70B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_70B), encoding="utf-8")

    def ahead(*overrides: str) -> Outlook:
        body = {
            "model": {"name": str(folder), "quantization_compute": "auto"},
            "data": {"train": "builtin:extraction", "max_length": 1024},
            "lora": {"r": {"choice": [16, 64]}, "target_modules": {"choice": ["qv", "all-linear"]}},
            "train": {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1},
            "search": {"baseline": False},
        }
        path = tmp_path / "llama-70b.yaml"
        path.write_text(json.dumps(body), encoding="utf-8")
        return look_ahead(load_space(path, overrides), gpus=Gpus(1, 80 * GIB))

    return ahead


def test_of_a_70b_model_the_config_is_enough(llama_70b: Callable[..., Outlook]) -> None:
    before = psutil.Process().memory_info().rss
    found = llama_70b()
    lines = "\n".join(plan_lines(found.plan, found.data, found.layout, found.unpacking))
    assert found.data is None
    assert "rows are taken to be of data.max_length, 1024" in lines
    # The rank times what goes in and comes out of each layer, by hand.
    attention = 2 * (8192 + 8192) + 2 * (8192 + 1024)
    mlp = 3 * (8192 + 28672)
    sizes = {
        (one.values["lora"]["target_modules"], one.values["lora"]["r"]): one.footprint
        for one in found.plan.classes()
    }
    assert found.plan.capacity == Capacity(80 * GIB, "a GPU", gpu=True)
    assert (found.layout.allocation.workers, found.layout.allocation.gpus) == (1, 1.0)
    largest = sizes["all-linear", 64]
    assert largest is not None
    assert largest.trainable == 80 * 64 * (attention + mlp)
    assert largest.gradients == largest.adapter == 4 * largest.trainable
    linear = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    rest = 2 * 128256 * 8192 + (2 * 80 + 1) * 8192
    packed = linear * (0.5 + 1 / 64 + 4 / (64 * 256)) + 4 * rest
    assert largest.weights == pytest.approx(packed, rel=1e-6)
    # Of each layer the checkpoint of its input, of 1024 tokens, is kept at least.
    assert largest.activations > 80 * 1024 * 8192 * 2
    assert 40 * GIB < largest.total < 80 * GIB
    assert psutil.Process().memory_info().rss - before < GIB


def test_in_full_precision_it_does_not_fit_and_what_would_is_said(
    llama_70b: Callable[..., Outlook],
) -> None:
    found = llama_70b("model.quantization=none", "train.gradient_checkpointing=false")
    with pytest.raises(SpaceError) as caught:
        plan_lines(found.plan, found.data, found.layout, found.unpacking)
    (fault,) = caught.value.faults
    assert fault.path == "model.name"
    assert "its weights alone take 131.4 GiB, and a GPU has 80.0 GiB" in fault.rule
    assert "gradient_checkpointing=true with model.quantization=nf4 would fit" in fault.rule


def plan_of(space: Space, size: int) -> Plan:
    found = look_ahead(space).plan
    return Plan(space, found.spec, found.modules, found.lengths, Capacity(size, "a box", gpu=False))


@pytest.fixture
def lopsided(space_of: SpaceOf) -> tuple[Space, int]:
    """A space, and a size that its rank of 2 fits into and its rank of 20000 does not."""
    space = space_of(
        lora={"r": {"choice": [2, 20000]}},
        search={"baseline": False, "trials": 4, "priors": False, "scheduler": "none"},
    )
    small = plan_of(space, 0).classes()[0].footprint
    least = plan_of(space, 1).classes()[1].least
    assert small is not None
    assert small.total < least
    return space, int((small.total + least) / 2 / MARGIN)


def test_an_impossible_configuration_is_refused_and_its_sibling_is_not(
    lopsided: tuple[Space, int],
) -> None:
    space, size = lopsided
    own = plan_of(space, size)
    small, large = own.classes()
    assert own.check()
    assert own.refusal(small.values) is None
    said = own.refusal(large.values)
    assert said is not None
    assert said.startswith("one row a pass of ")
    assert said.endswith(f"and a box has {size / GIB:.1f} GiB")
    assert large.note == "impossible"


def test_one_that_a_wrong_prediction_might_be_wrong_about_is_kept(
    lopsided: tuple[Space, int],
) -> None:
    space, _ = lopsided
    own = plan_of(space, int(plan_of(space, 0).classes()[1].least / MARGIN) + 1)
    assert not own.check()
    assert own.refusal(own.classes()[1].values) is None
    assert own.classes()[1].note == "tight"


def test_what_fits_with_fewer_rows_is_kept(space_of: SpaceOf) -> None:
    space = space_of(
        train={"per_device_train_batch_size": 4096}, search={"baseline": False}, lora={"r": 2}
    )
    whole = plan_of(space, 0).classes()[0].footprint
    assert whole is not None
    own = plan_of(space, int((whole.process + 0.5 * (whole.total - whole.process)) / MARGIN))
    assert not own.check()
    assert own.classes()[0].note == "with fewer rows a pass"


def test_nothing_is_refused_where_memory_cannot_be_read(lopsided: tuple[Space, int]) -> None:
    own = plan_of(lopsided[0], 0)
    assert not own.check()
    assert own.refusal(own.classes()[1].values) is None


def test_the_study_never_holds_one(lopsided: tuple[Space, int], run: RunFolder) -> None:
    space, size = lopsided
    study = Study(space, run.study, run.name, refuse=plan_of(space, size).refusal)
    found = [study.next_config() for _ in range(4)]
    assert all(config is not None and config.lora["r"] == 2 for config in found)
    known = optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}").trials
    refused = [trial for trial in known if "impossible" in trial.user_attrs]
    assert all(trial.params["lora.r"] == 20000 for trial in refused)
    assert {trial.state for trial in refused} <= {OptunaState.FAIL}
    assert len(study) == 4


def test_a_search_trains_what_is_left(
    lopsided: tuple[Space, int], run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, size = lopsided
    monkeypatch.setattr(course, "capacity", lambda *_: Capacity(size, "a box", gpu=False))
    searched(space, run)
    rows = board(run)
    assert len(rows) == 4
    assert {row["r"] for row in rows} == {"2"}


def test_a_search_of_which_nothing_fits_ends_before_it_begins(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "capacity", lambda *_: Capacity(2**20, "a box", gpu=False))
    with pytest.raises(SpaceError, match="a smaller model is needed"):
        searched(space_of(), run)
    assert not run.root.exists()


def test_gpus_elsewhere_are_taken_at_their_word(space_of: SpaceOf) -> None:
    space = space_of(resources={"gpus_per_trial": 0.5})
    found = look_ahead(space, gpus=Gpus(3, 24 * GIB))
    assert found.plan.capacity == Capacity(12 * GIB, "a GPU shared by 2", gpu=True)
    assert found.layout.allocation == Allocation(min(6, space.search.trials), 1, 0.5)
    footprint = found.plan.heaviest().footprint
    assert footprint is not None
    assert (footprint.process, footprint.allocator) == (GPU_CONTEXT, 0)


def test_more_gpus_than_there_are_elsewhere_are_refused(space_of: SpaceOf) -> None:
    space = space_of(resources={"gpus_per_trial": 4})
    with pytest.raises(SpaceError, match="this machine has 2 GPU"):
        look_ahead(space, gpus=Gpus(2, 24 * GIB))


def test_capacity_is_the_least_of_machine_and_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "other"
    limit.write_text(f"{GIB}\n")
    none.write_text("max\n")
    monkeypatch.setattr(plan_facts, "_CGROUPS", (str(none), str(tmp_path / "missing")))
    assert capacity(0).size == psutil.virtual_memory().total
    monkeypatch.setattr(plan_facts, "_CGROUPS", (str(none), str(limit)))
    assert capacity(0) == Capacity(GIB, "this machine", gpu=False)


@pytest.mark.parametrize(("share", "size"), [(1.0, 80), (0.5, 40), (2.0, 160)])
def test_part_of_a_gpu_has_part_of_its_memory(
    share: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_facts, "size_of_gpus", lambda count: 80 * GIB)
    assert capacity(2, share).size == size * GIB


def test_time_goes_by_passes_and_arithmetic(space_of: SpaceOf) -> None:
    space = space_of(train={"gradient_accumulation_steps": 3}, search={"baseline": False})
    counted = plan_of(space, 0)
    own = replace(counted, lengths=replace(counted.lengths, judged=0))
    values = own.classes()[0].values
    measured = TrialConfig(0, "CAUSAL_LM", values["lora"], values["train"], space.rungs())
    # Two trials like the one measured: their passes, at so many a second.
    assert seconds(own, [values, values], measured, 5.0) == pytest.approx(2 * 4 * 3 / 5.0)
    train = {**values["train"], "per_device_train_batch_size": 8}
    twice = {"lora": values["lora"], "train": train}
    assert seconds(own, [twice], measured, 5.0) == pytest.approx(2 * 4 * 3 / 5.0)
    # Of a frozen weight, an evaluation does half the work of a pass.
    rungs, rows = len(space.rungs()), counted.lengths.judged / (4 * own.lengths.mean)
    assert seconds(counted, [values], measured, 5.0) == pytest.approx(
        (4 * 3 + 0.5 * rungs * rows) / 5.0, rel=0.05
    )


def test_tokens_are_those_of_every_step(space_of: SpaceOf) -> None:
    space = space_of(train={"gradient_accumulation_steps": 3}, search={"baseline": False})
    own = plan_of(space, 0)
    assert own.classes()[0].tokens == 4 * 4 * 3 * own.lengths.mean


def test_lengths_are_those_of_the_rows(space_of: SpaceOf) -> None:
    found = look_ahead(space_of())
    assert found.data is not None
    lengths = [len(row["input_ids"]) for row in found.data.train]
    own = found.plan.lengths
    assert (own.longest, own.assumed, own.reply) == (max(lengths), None, None)
    assert own.judged == sum(len(row["input_ids"]) for row in found.data.validation)
    assert own.mean == pytest.approx(sum(lengths) / len(lengths), abs=1)


def test_json_holds_every_class_with_its_sum(space_of: SpaceOf) -> None:
    found = look_ahead(space_of())
    data = json.loads(json.dumps(as_json(found.plan, found.layout, 7)))
    assert len(data["classes"]) == len(found.plan.classes()) == 3
    for one in data["classes"]:
        memory = dict(one["memory"])
        assert memory.pop("total") == sum(memory.values())
        assert one["seconds"] is None
    assert (data["disk_bytes"], data["seconds"]) == (7, None)


def test_a_row_names_what_differs_and_below_is_what_does_not(space_of: SpaceOf) -> None:
    found = look_ahead(space_of(search={"baseline": False}))
    assert varying(found.plan.classes()) == ["lora.target_modules", "lora.r"]
    heads, rows, below = table(found.plan, found.layout)
    assert heads == ["targets", "r", "trains", "adapter", "a pass", "memory", "disk"]
    assert [row[:2] for row in rows] == [["qv", "2"], ["qv", "4"]]
    assert {len(row) for row in rows} == {len(heads)}
    assert f"trains on {found.plan.classes()[0].tokens}" in below[1].replace(".", "")


def test_what_peft_refuses_is_impossible_and_no_end_of_the_plan(space_of: SpaceOf) -> None:
    space = space_of(
        lora={"use_dora": {"choice": [False, True]}, "lora_bias": True, "r": 2},
        search={"baseline": False},
    )
    # Even where memory cannot be read.
    own = plan_of(space, 0)
    fine, refused = own.classes()
    assert (fine.footprint is None, refused.footprint is None) == (False, True)
    assert own.check()
    assert own.refusal(fine.values) is None
    assert "peft refuses" in (own.refusal(refused.values) or "")
    _, rows, below = table(own, Layout(Allocation(1, 1, 0.0)))
    assert rows[1][-1] == "impossible"
    assert any(line.startswith("Impossible, and never tried: peft refuses") for line in below)


def test_pissa_wants_weights_that_are_not_packed(space_of: SpaceOf) -> None:
    lora = {"r": 2, "init_lora_weights": {"choice": [True, "pissa_niter_4"]}}
    space = space_of(lora=lora, model={"quantization": "nf4"}, search={"baseline": False})
    own = plan_of(space, GIB)
    assert [own.refusal(one.values) is None for one in own.classes()] == [True, False]
    lora = {"r": 2, "init_lora_weights": "pissa_niter_4"}
    alone = space_of(lora=lora, model={"quantization": "nf4"}, search={"baseline": False})
    with pytest.raises(SpaceError, match=r"write model\.quantization=none") as caught:
        plan_of(alone, GIB).check()
    assert caught.value.faults[0].path == "lora"
    plain = space_of(lora=lora, search={"baseline": False})
    assert not plan_of(plain, GIB).check()


VARIANTS = {
    "use_dora": {"choice": [False, True]},
    "use_rslora": {"choice": [False, True]},
    "bias": {"choice": ["none", "lora_only"]},
    "modules_to_save": {"choice": [None, ["norm"]]},
    "rank_pattern": {"choice": [{}, {r"layers\.0\..*": 4}]},
}


def test_of_many_kinds_a_search_looks_at_few(
    space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are looked at when they are proposed."""
    space = space_of(lora=VARIANTS, search={"baseline": False})
    assert len(size_classes(space)) == 2 * 2**4
    own, traced = plan_of(space, GIB), []
    predicted = own._predicted
    monkeypatch.setattr(Plan, "_predicted", lambda _, v: traced.append(v) or predicted(v))
    assert not own.check()
    most = own.heaviest()
    assert most.values["lora"]["use_dora"]
    assert most.values["lora"]["modules_to_save"] == ["norm"]
    assert own.refusal(traced[0]) is None
    assert len(traced) <= TRACED


def test_rows_a_pass_may_be_searched(space_of: SpaceOf) -> None:
    space = space_of(train={"per_device_train_batch_size": {"choice": [2, 4]}}, lora={"r": 8})
    rows = {one.tokens for one in plan_of(space, 0).classes()}
    assert rows == {4 * n * plan_of(space, 0).lengths.mean for n in (2, 4)}


def test_answers_to_metrics_keep_keys_and_values(space_of: SpaceOf) -> None:
    """Many long answers, next to which training is nothing: two layers, one head of 16."""
    few, many = (
        plan_of(
            space_of(
                lora={"r": 2},
                search={
                    "baseline": False,
                    "metric": "exact_match",
                    "generation": {"batch_size": rows, "max_new_tokens": 2000},
                },
            ),
            0,
        )
        .classes()[0]
        .footprint
        for rows in (32, 64)
    )
    assert few is not None
    assert many is not None
    kept = 32 * 2000 * 2 * 2 * 16 * 4
    assert many.activations - few.activations >= kept


def test_equal_sizes_are_one_class(space_of: SpaceOf) -> None:
    space = space_of(search={"baseline": False})
    one, other = size_classes(space)
    assert size_key(one) != size_key(other)
    again = {**one, "train": {**one["train"], "learning_rate": 0.5}}
    assert size_key(one) == size_key(again)


def test_rows_that_are_assumed_are_all_supervised() -> None:
    own = Lengths.assume(512, "CAUSAL_LM", "no tokenizer")
    assert (own.longest, own.mean, own.scored) == (512, 512, 512)
    assert own.batch(2, 512).supervised == 512
    assert Lengths.assume(512, "SEQ_2_SEQ_LM", "no tokenizer").cut(64).reply == 64


def test_labels_of_an_encoder_decoder_are_a_sequence_of_their_own(
    space_of: SpaceOf, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"source": "x" * 10, "target": "y" * n} for n in range(1, 41)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(path), "format": "seq2seq", "duplicates": "allow"}
    found = look_ahead(space_of(architecture="t5", data=data))
    assert found.data is not None
    longest = max(len(row["labels"]) for row in found.data.train)
    own = found.plan.lengths
    assert own.reply == longest > own.longest
    assert own.batch(3, own.longest).supervised == longest


def test_words_with_tags_and_classes_get_a_plan(space_of: SpaceOf, tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    rows = [{"tokens": ["a", "b", str(n)], "tags": ["X", "Y", "Z"]} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(path), "format": "token_classification"}
    (own,) = look_ahead(
        space_of(architecture="tagger", data=data, lora={"r": 2}, search={"baseline": False})
    ).plan.classes()
    assert own.footprint is not None
    # Query and value of two layers, and a head of three classes with biases.
    assert own.footprint.trainable == 2 * 2 * 2 * (32 + 32) + 3 * 32 + 3
