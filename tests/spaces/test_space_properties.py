"""What holds of any text, any data and any space: no crash, no loss, no drift."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tune_lora.spaces import Choice, FloatRange, IntRange, SpaceError, dump_space, load_space

QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

KEYS = [
    "model", "data", "lora", "train", "search", "resources", "tracking", "name", "r", "lora_alpha",
    "target_modules", "use_dora", "rank_pattern", "learning_rate", "max_steps", "optim", "choice",
    "uniform", "log_uniform", "int", "log_int", "ratio_of", "step", "value", "with", "limit",
    "fields", "template", "format", "validation", "test", "scheduler", "asha", "grace_steps",
    "wandb", "project", "workers", "task", "<<", "lora.r", "", "qv", "trials",
]  # fmt: skip
WORDS = st.sampled_from(KEYS) | st.text(max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats()
    | st.sampled_from(["qv", "none", "asha", "auto", "(", "{instruction}", "{", "SEQ_CLS"])
    | st.text(max_size=20)
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(WORDS, inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=25,
)
BLOCKS = st.fixed_dictionaries(
    {"model": st.just({"name": "m"}) | NESTED, "data": st.just({"train": "d"}) | NESTED},
    optional=dict.fromkeys(KEYS[2:7], NESTED),
)


def load_or_fault(path: Path, text: str, overrides: list[str]) -> None:
    """Load, letting nothing but a SpaceError with a printable text pass."""
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    found: SpaceError | None = None
    try:
        dump_space(load_space(path, overrides))
    except SpaceError as error:
        found = error
    if found is not None:
        assert found.faults
        assert all(fault.rule for fault in found.faults)
        str(found).encode()


@QUICK
@given(text=st.text(max_size=200), overrides=st.lists(st.text(max_size=30), max_size=2))
def test_any_text_loads_or_faults(folder: Path, text: str, overrides: list[str]) -> None:
    load_or_fault(folder / "any.yaml", text, overrides)


@QUICK
@given(raw=st.binary(max_size=80))
def test_any_bytes_load_or_fault(folder: Path, raw: bytes) -> None:
    path = folder / "bytes.yaml"
    path.write_bytes(raw)
    with pytest.raises(SpaceError):
        load_space(path)


@QUICK
@given(data=BLOCKS | NESTED)
def test_any_data_loads_or_faults(folder: Path, data: object) -> None:
    load_or_fault(folder / "nested.yaml", yaml.safe_dump(data), [])


@QUICK
@given(key=st.sampled_from(KEYS), inner=st.sampled_from(KEYS), value=NESTED)
def test_any_override_loads_or_faults(folder: Path, key: str, inner: str, value: object) -> None:
    text = yaml.safe_dump(value, default_flow_style=True)
    for path in (f"{key}.{inner}", f"lora.{inner}", f"train.{inner}", key):
        head = "{model: {name: m}, data: {train: d}}"
        load_or_fault(folder / "override.yaml", head, [f"{path}={text}"])


def bounds(low: float, high: float) -> st.SearchStrategy[list[float]]:
    numbers = st.floats(low, high, allow_subnormal=False)
    return st.tuples(numbers, numbers).map(sorted).filter(lambda pair: pair[1] > pair[0] * 1.001)


def whole(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(sorted)


def domain(keyword: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return values.map(lambda value: {keyword: value})


def stepped(keyword: str, steps: list[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(st.integers(1, 12), st.sampled_from(steps)).map(
        lambda pair: {keyword: [1, 1 + pair[0] * pair[1]], "step": pair[1]}
    )


def options(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return domain("choice", st.lists(values, min_size=1, max_size=4, unique=True))


RATES = domain("log_uniform", bounds(1e-6, 1e-1))
RANKS = (
    st.integers(1, 256)
    | options(st.integers(1, 99))
    | domain("int", whole(1, 64))
    | domain("log_int", whole(1, 64))
    | stepped("int", [1, 2, 3, 8])
)
FACTORS = (
    domain("uniform", bounds(1.0, 8.0))
    | domain("log_int", whole(1, 16))
    | stepped("uniform", [0.1, 0.25, 1 / 3])
    | options(st.sampled_from([1, 1.5, 2, 4]))
)
RATIOS = FACTORS.map(lambda factor: {"ratio_of": "r", **factor})
DECAYS = st.builds(
    lambda n, step: {"uniform": [0, n * step], "step": step},
    st.integers(1, 30),
    st.sampled_from([0.1, 0.01, 0.003]),
)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Any]:
    """A space with most kinds of domain, as the data of a file."""
    given_rate = {"train.learning_rate": draw(RATES), "lora.lora_alpha": draw(RATIOS)}
    dora: list[Any] = [False, {"value": True, "with": given_rate}]
    return {
        "model": {"name": "m"},
        "data": {"train": "d"},
        "lora": {
            "r": draw(RANKS),
            "lora_alpha": draw(RATIOS | st.integers(1, 64)),
            "use_dora": {"choice": draw(st.permutations(dora))},
            "target_modules": {"choice": ["qv", ["a", "b"], "mlp"]},
            "init_lora_weights": {"choice": [True, "gaussian"]},
        },
        "train": {"learning_rate": draw(RATES), "weight_decay": draw(DECAYS)},
    }


def random_suggest(data: st.DataObject) -> Callable[[str, Choice | FloatRange | IntRange], Any]:
    """Draws as a sampler would: labels, grid points, numbers of the range."""

    def suggest(name: str, domain: Choice | FloatRange | IntRange) -> Any:
        if isinstance(domain, Choice):
            return data.draw(st.sampled_from(domain.labels), label=name)
        if domain.step is None:
            return data.draw(st.floats(domain.low, domain.high), label=name)
        steps = round((domain.high - domain.low) / domain.step)
        index = data.draw(st.integers(0, steps), label=name)
        return min(domain.low + index * domain.step, domain.high)

    return suggest


@QUICK
@given(raw=spaces(), data=st.data())
def test_what_is_drawn_is_found_and_drawn_again(
    folder: Path, raw: dict[str, Any], data: st.DataObject
) -> None:
    path = folder / "drawn.yaml"
    path.write_text(yaml.safe_dump(raw))
    space = load_space(path)
    sample = space.sample(random_suggest(data))
    found = space.locate(sample)
    assert found is not None
    asked: list[str] = []
    again = space.sample(lambda name, domain: (asked.append(name), found[name])[1])
    assert asked == list(found)
    assert set(found) <= {parameter.name for parameter in space.parameters()}
    for block, values in sample.items():
        for key, value in values.items():
            other = again[block][key]
            if isinstance(value, float):
                assert isinstance(other, float)
                assert math.isclose(value, other, rel_tol=1e-8)
            else:
                assert other == value
                assert type(other) is type(value)


@QUICK
@given(raw=spaces())
def test_a_dumped_space_loads_as_it_was(folder: Path, raw: dict[str, Any]) -> None:
    path = folder / "dumped.yaml"
    path.write_text(yaml.safe_dump(raw))
    space = load_space(path)
    path.write_text(dump_space(space))
    assert load_space(path) == space
    assert yaml.safe_load(dump_space(load_space(path))) == space.resolved()
