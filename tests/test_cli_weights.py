"""`diffsr weights`: every command, its output for people and programs, its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from hub_double import REPO, HubDouble
from test_cli import picture, run
from test_cli_faults import on_a_terminal

from upscale.cli.main import cli
from upscale.metrics import perceptual
from upscale.weights import store
from upscale.weights.registry import PACKAGE

pytestmark = pytest.mark.packaged

FILE = "tiny.safetensors"
SPEC = f"hf:{REPO}/{FILE}"
COMMANDS = ("list", "show", "pull", "verify", "path", "rm", "export", "import", "publish")


@pytest.fixture
def hub(here, hub_double: HubDouble, tiny_weights: str) -> HubDouble:
    hub_double.files[FILE] = Path(tiny_weights).read_bytes()
    return hub_double


@pytest.fixture
def listed(here, hub, monkeypatch, tiny_weights: str) -> HubDouble:
    """The file on the Hub is `mine` in a list of the user's own."""
    entry = store.find(tiny_weights)
    (here / "own.toml").write_text(f"""
[weights.mine]
method = "sr3"
net = "tiny"
domain = "photo"
scales = {{ min = 1, max = 8 }}
sha256 = "{entry.sha256}"
size = {entry.size}
licence = "test"
hub = {{ repo = "{REPO}", revision = "{hub.commit}", file = "{FILE}" }}
""")
    monkeypatch.setenv("DIFFSR_WEIGHTS_TOML", str(here / "own.toml"))
    return hub


def test_every_command_prints_json() -> None:
    for name, sub in cli.get_command(click.Context(cli), "weights").commands.items():
        assert "as_json" in {param.name for param in sub.params}, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    group = cli.get_command(click.Context(cli), "weights")
    assert set(group.commands) == set(COMMANDS)
    for param in group.commands[name].params:
        if isinstance(param, click.Option):
            assert param.help and param.group
    assert "Usage:" in run("weights", name, "--help").output


def test_list(listed) -> None:
    rows = {row["name"]: row for row in json.loads(run("weights", "list", "--json").stdout)}
    assert list(rows) == list(store.entries())
    assert rows["sr3-photo"]["state"] == "bundled" and rows["sr3-photo"]["licence"]
    mine = rows["mine"]
    assert (mine["state"], mine["method"], mine["domain"]) == ("remote", "sr3", "photo")
    assert mine["scales"] == {"min": 1, "max": 8} and mine["list"].endswith("own.toml")
    shown = run("weights", "list").stdout.splitlines()
    columns = ["name", "method", "domain", "input", "scales", "default", "size", "state", "licence"]
    assert shown[0].split() == columns
    default = {line.split()[0]: line.split()[5] for line in shown if "photo " in line}
    assert (default["ecdp-photo"], default["ecdp-photo-x2"]) == ("3-16", "1-2")
    assert (default["sr3-photo"], default["ecdp-photo-real"]) == ("-", "1-16")
    assert default["idm-photo"] == default["liif-photo"] == "-"
    assert rows["ecdp-photo"]["default"] == [*range(3, 17)]
    end = shown.index("")  # files of metrics stand apart
    assert "metrics" in shown[end + 1] and shown[end + 3].split()[0] == "lpips-alex"
    size = f"{store.find('mine').size / 2**20:.1f}"
    assert shown[end - 1].split() == [
        "mine",
        "sr3",
        "photo",
        "clean",
        "1-8",
        "-",
        size,
        "MiB",
        "remote",
        "test",
    ]
    run("weights", "pull", "mine")
    assert "cached" in run("weights", "list").stdout.splitlines()[end - 1]


def test_show(listed, tiny_weights) -> None:
    assert json.loads(run("weights", "show", "mine", "--json").stdout)["state"] == "remote"
    assert f"{'default':<16} {[*range(3, 17)]}\n" in run("weights", "show", "ecdp-photo").stdout
    told = json.loads(run("weights", "show", tiny_weights, "--json").stdout)
    assert told["file"]["std"] == 0.24 and told["file"]["defaults"]["steps"] == 2
    shown = run("weights", "show", tiny_weights).stdout
    assert f"{'std':<16} 0.24\n" in shown and f"{'path':<16} {tiny_weights}\n" in shown
    assert "no weights named nine" in run("weights", "show", "nine", code=5).told


def test_pull_prints_where_it_is(listed, hub_cache) -> None:
    path = run("weights", "pull", SPEC).stdout.strip()
    assert Path(path).is_file() and path.startswith(str(hub_cache))
    result = run("weights", "pull", "--json", "mine", f"hf:{REPO}")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["mine", f"hf:{REPO}@{listed.commit}/{FILE}"]
    assert rows[0]["sha256"] == rows[1]["sha256"] and rows[0]["size"] == rows[1]["size"]
    listed.log.clear()
    assert run("weights", "pull", SPEC, "--offline").stdout.strip() == path and not listed.log


def test_pull_says_that_it_fetches_unless_quiet(listed) -> None:
    assert "fetching weights, " in run("weights", "pull", "mine").stderr
    run("weights", "rm", "mine")
    assert run("weights", "pull", "-q", "mine").stderr == ""


def test_pull_of_a_revision(hub) -> None:
    path = run("weights", "pull", SPEC, "--revision", hub.commit).stdout
    assert hub.commit in path
    told = run("weights", "pull", SPEC, "--revision", "v9", code=5).told
    assert "org/weights has no revision v9" in told
    assert (
        "--revision is for" in run("weights", "pull", "sr3-photo", "--revision", "a", code=2).told
    )


def test_one_that_fails_does_not_stop_the_others(listed) -> None:
    result = run("weights", "pull", "--json", "nine", "mine", "hf:org/other/a.safetensors", code=5)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row.get("kind") for row in rows] == ["WeightsError", None, "NoRepo"]
    assert "Error: org/other does not exist" in result.stderr
    assert "no weights named" in run("weights", "pull", code=2).told


def test_offline_and_gated(listed) -> None:
    assert "diffsr is offline" in run("weights", "pull", "mine", "--offline", code=5).told
    listed.errors["HEAD"] = (403, {"X-Error-Code": "GatedRepo"})
    assert "asks you to accept its terms" in run("weights", "pull", "mine", code=5).told


def test_verify(listed, tiny_weights) -> None:
    everything = run("weights", "verify").stdout.split()
    bundled = [name for name, entry in store.entries().items() if entry.bundled]
    assert everything == bundled
    assert run("weights", "verify", "--golden").stdout.split() == bundled  # which have no vectors
    row = json.loads(run("weights", "verify", "mine", "--json").stdout)
    assert row["status"] == "right" and row["sha256"] == store.find("mine").sha256
    path = Path(run("weights", "path", "mine").stdout.strip())
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    os.utime(path, ns=(1, 1))
    result = run("weights", "verify", "mine", "sr3-photo", code=5)
    assert "mine: " in result.stderr and "is damaged" in result.stderr
    assert result.stdout.split() == ["sr3-photo"]
    assert "no golden vectors" in run("weights", "verify", "--golden", tiny_weights, code=5).told


def test_path_and_rm(listed) -> None:
    assert run("weights", "path", "sr3-photo").stdout.strip() == str(
        PACKAGE / "bundled" / "ecdp-photo.safetensors"
    )
    assert "is not on this machine" in run("weights", "path", "mine", code=5).told
    path = run("weights", "pull", "mine").stdout.strip()
    assert run("weights", "path", "mine").stdout.strip() == path
    assert json.loads(run("weights", "path", "mine", "--json").stdout)["path"] == path
    assert run("weights", "rm", "mine").stdout.strip() and not Path(path).exists()
    assert "not in the Hub's cache" in run("weights", "rm", "mine", code=5).told
    assert "as any other file" in run("weights", "rm", "sr3-photo", code=5).told
    run("weights", "rm", code=2)


def test_import(here) -> None:
    import torch
    from safetensors.torch import load_file

    fixture = Path(__file__).parent / "fixtures" / "sr3" / "weights.safetensors"
    torch.save(load_file(fixture), here / "I1_E2_gen.pth")
    args = ["weights", "import", "I1_E2_gen.pth", "--method", "sr3", "--norm-groups", "8"]
    assert run(*args, "--scale", "4").stdout == "I1_E2_gen.safetensors\n"
    entry = store.find(here / "I1_E2_gen.safetensors")
    assert (entry.method, entry.scales, entry.licence) == ("sr3", (4.0,), "not stated")
    assert "exists; give --overwrite" in run(*args, code=1).told
    told = json.loads(run(*args, "--overwrite", "--fp16", "--licence", "MIT", "--json").stdout)
    assert (told["path"], told["licence"]) == ("I1_E2_gen.safetensors", "MIT")
    assert told["size"] < 0.6 * entry.size
    assert "-o" in run(*args, "-o", "a.pth", code=2).told
    assert (
        "its keys are those of sr3"
        in run(
            "weights", "import", "I1_E2_gen.pth", "--method", "ecdp", "-o", "b.safetensors", code=5
        ).told
    )
    assert not (here / "b.safetensors").exists()
    named = run("weights", "import", fixture, "--norm-groups", "8", "-o", "c.safetensors").stdout
    assert named == "c.safetensors\n"


def test_publish(hub, here, tiny_weights) -> None:
    args = ["weights", "publish", tiny_weights, REPO, "--licence", "CC0-1.0"]
    made = run(*args, "--output", "made", "-q").stdout
    assert sorted(p.name for p in (here / "made").iterdir()) == [
        "README.md", "tiny.golden.safetensors", FILE,
    ]  # fmt: skip
    assert not hub.asked("POST") and '[weights.tiny]\nmethod = "sr3"\n' in made
    text = run(*args).stdout
    told = json.loads(run(*args, "--json").stdout)
    assert told["revision"] == hub.commit and FILE in told["files"] and told["entry"] == text
    assert f'revision = "{hub.commit}"' in text and 'licence = "CC0-1.0"' in text
    run("weights", "verify", "--golden", SPEC)
    assert run("weights", "publish", tiny_weights, "../x", code=5).told
    hub.errors["POST"] = (403, {})
    assert "HTTP 403" in run(*args, code=5).told


BUNDLED = ("liif-photo", "lpips-alex")


@pytest.fixture
def bare(here, hub_double: HubDouble, monkeypatch) -> HubDouble:
    """Some weights were published, their entries put into the list, and the package is without."""
    from upscale.weights import registry

    made = [run("weights", "publish", name, REPO, "-q").stdout for name in BUNDLED]
    (here / "weights.toml").write_text("\n".join(made))
    monkeypatch.setattr(registry, "_list_path", lambda: here / "weights.toml")
    monkeypatch.setenv("DIFFSR_NO_BUNDLED", "1")
    return hub_double


def test_what_publish_prints_makes_a_package_without_weights_work(bare, here, monkeypatch) -> None:
    named = store.entries()
    assert [entry.bundled is not None and entry.hub is not None for entry in named.values()] == [
        True, True]  # fmt: skip
    assert sorted(bare.files) == [
        "README.md", "liif-photo.golden.safetensors", "liif-photo.safetensors",
        "lpips-alex.safetensors",
    ]  # fmt: skip
    assert "remote" in run("weights", "list").stdout.splitlines()[1]
    picture(here / "in.png", (9, 7))
    assert "diffsr is offline" in run("in.png", "--method", "liif", "--offline", code=5).told
    bare.served["liif-photo.safetensors"] = b"x" * named["liif-photo"].size
    assert "its hash is not" in run("in.png", "--method", "liif", code=5).told
    assert not (here / "in_x4.png").exists() and store.state_of(named["liif-photo"]) == "remote"
    bare.served.clear()
    assert "fetching weights, 1241 KiB" in run("in.png", "--method", "liif").stderr
    assert store.state_of(named["liif-photo"]) == "cached"
    run("weights", "verify", "--golden", "liif-photo")
    assert Path(perceptual.weights_file("alex")).is_file()  # a metric's, too
    monkeypatch.delenv("DIFFSR_NO_BUNDLED")
    assert "bundled" in run("weights", "list").stdout.splitlines()[1]


def test_a_package_without_weights_and_without_a_place_for_them(here, monkeypatch) -> None:
    picture(here / "in.png", (9, 7))
    monkeypatch.setenv("DIFFSR_NO_BUNDLED", "1")
    told = run("in.png", "--method", "liif", code=5).told
    assert "liif-photo.safetensors is not in this package" in told
    assert "missing" in run("weights", "list").stdout.splitlines()[1]


@pytest.mark.slow
def test_an_installed_package_whose_files_were_removed(bare, here) -> None:
    """The copied package as a process of its own, on a terminal: a bar, then no network at all."""
    site = here / "site"
    shutil.copytree(PACKAGE, site / "upscale", ignore=shutil.ignore_patterns("bundled", "__pyc*"))
    shutil.copy(here / "weights.toml", site / "upscale")
    picture(here / "in.png", (9, 7))
    env = {**os.environ, "PYTHONPATH": str(site), "HF_ENDPOINT": bare.url, "TERM": "xterm",
           "HF_HOME": str(here / "home"), "COLUMNS": "100"}  # fmt: skip
    env.pop("DIFFSR_NO_BUNDLED")
    command = [sys.executable, "-m", "upscale", "in.png", "--method", "liif"]
    code, shown = on_a_terminal(command, env, here)
    assert code == 0 and "weights, KiB" in shown and "in_x4.png" in shown
    bare.log.clear()
    again = [*command, "--overwrite", "--offline"]
    subprocess.run(again, env=env, cwd=here, check=True, capture_output=True)
    assert not bare.log


def test_the_shell_completes_commands_and_names() -> None:
    shell = ShellComplete(cli, {}, "diffsr", "_DIFFSR_COMPLETE")

    def completed(args: list[str], word: str) -> list[str]:
        return [item.value for item in shell.get_completions(args, word)]

    assert "weights" in completed([], "wei")
    assert completed(["weights"], "pu") == ["publish", "pull"]
    assert completed(["weights", "path"], "sr3-p") == ["sr3-photo", "sr3-photo-x2"]
    assert "--golden" in completed(["weights", "verify"], "--g")


def test_an_export_says_at_once_where_it_cannot_write(tmp_path, monkeypatch):
    """Not after a minute of work."""
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    told = run("weights", "export", "ecdp-photo", "--onnx", "taken/x.onnx", code=1).told
    assert "taken: the folder cannot be made" in told and "a minute" not in told
    told = run("weights", "export", "none", "--onnx", "new/x.onnx", code=5).told
    assert "no weights named none; choose from" in told and not Path("new").exists()
