"""README and docs: links lead somewhere, spaces load, commands and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from documents import GUIDES, README, ROOT, texts
from tune_lora.spaces import load_space

DOCUMENTS = [*GUIDES, ROOT / "CHANGELOG.md"]
VERBS = {path.stem for path in (ROOT / "cli").glob("[a-z]*.py")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("text", texts("yaml"))
def test_spaces_in_the_readme_load(text: str, tmp_path: Path) -> None:
    body = {"model": {"name": "m"}, "data": {"train": "d.jsonl"}, **yaml.safe_load(text)}
    path = tmp_path / "readme.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    assert load_space(path).parameters()


def test_commands_in_the_readme_exist() -> None:
    text = README.read_text(encoding="utf-8")
    used = set(re.findall(r"(?:`|\$ )tune-lora ([a-z]+)", text))
    assert used <= VERBS
    assert used >= VERBS


def test_overrides_in_the_readme_are_valid() -> None:
    lines = "\n".join(texts("console")).replace("\\\n", " ").splitlines()
    searches = [shlex.split(line)[3:] for line in lines if line.startswith("$ tune-lora search")]
    assert searches
    for words in searches:
        load_space(words[0], [word for word in words[1:] if not word.startswith("--")])


def test_every_folder_of_the_tree_is_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    folders = {
        path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").is_file()
    }
    assert [name for name in folders if f"\n{name}/ " not in text] == []


def test_scripts_for_slurm_search_spaces_that_load() -> None:
    whole, by_hand = texts("bash", ROOT / "docs/scaling.md")
    assert whole.startswith("#!/bin/bash\n#SBATCH ")
    for line in re.findall(r"tune-lora search (.*)", (whole + by_hand).replace("\\\n", " ")):
        words = line.partition("--address")[0].split()
        load_space(words[0], words[1:])


def test_the_manifest_for_kuberay_says_what_it_needs() -> None:
    (text,) = texts("yaml", ROOT / "docs/scaling.md")
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(manifest["spec"]["entrypoint"])
    assert words[:2] == ["tune-lora", "search"]
    load_space(words[2], words[3 : words.index("--address")])
    cluster = manifest["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            (mount,) = container["volumeMounts"]
            assert mount["name"] in volumes
            assert words[words.index("--run") + 1].startswith(mount["mountPath"] + "/")
            assert [v["value"].startswith(mount["mountPath"]) for v in container["env"]] == [True]
