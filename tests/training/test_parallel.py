"""Training from run.json without a server, in one process and in several that train together (Gloo, on the CPU).

The documented command is run once, with torchrun. Elsewhere processes are forked, which saves importing ComfyUI.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ideogram4_lora_trainer.trainer_core import __main__ as program
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import SettingsError
from ideogram4_lora_trainer.trainer_core.lora_files import read_lora
from ideogram4_lora_trainer.trainer_core.training import checkpoints, loop, plan, run_file
from ideogram4_lora_trainer.trainer_core.training.journal import read_journal
from networks import place_under, relative_error, training_data
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
COMFYUI_ROOT = Path(os.environ.get("COMFYUI_ROOT") or ROOT / ".dev" / "ComfyUI").resolve()
SETTINGS = TrainSettings(steps=20, rank=2, learning_rate=1e-3, warmup_steps=0, batch_size=2)
LONG = dataclasses.replace(SETTINGS, steps=40_000, batch_size=1, gradient_accumulation=4)
TIMEOUT_S = 60

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, which this system cannot")


# ---- a run in this process, and its run.json -----------------------------------------------------------------


@pytest.fixture(scope="module")
def patcher(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("bf16")


@pytest.fixture(scope="module")
def data(patcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return training_data(tmp_path_factory.mktemp("cache"), patcher, count=5, size=(64, 64), lengths=(5, 9, 7))


@pytest.fixture
def train(patcher: Any, data: Any) -> Callable[..., Any]:
    """Train in this process, as the node does."""

    def run(folder: Path, settings: TrainSettings = SETTINGS, *, place: Any = None, **options: Any) -> Any:
        with torch.inference_mode():
            return loop.train(
                options.pop("patcher", patcher),
                options.pop("data", data),
                settings,
                place or place_under(folder),
                **options,
            )

    return run


@pytest.fixture(scope="module")
def written(patcher: Any, data: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run.json of a run of one step."""
    folder = tmp_path_factory.mktemp("written")
    with torch.inference_mode():
        loop.train(patcher, data, dataclasses.replace(SETTINGS, steps=1), place_under(folder))
    return run_of(folder) / "run.json"


def run_of(folder: Path) -> Path:
    (found,) = (path for path in (folder / "runs").iterdir() if not path.name.startswith("."))
    return found


def copied(source: Path, folder: Path, settings: TrainSettings) -> Path:
    """A run.json that starts a new run under `folder`."""
    body = json.loads(source.read_bytes())
    body["run"] |= {"runs_folder": str(folder / "runs"), "loras_folder": str(folder / "loras")}
    body["settings"] = dataclasses.asdict(settings)
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(body))
    return folder / "run.json"


def newest(run: Path) -> Any:
    return checkpoints.read_checkpoint(checkpoints.list_checkpoints(run)[0]).state


def files_of(run: Path) -> list[bytes]:
    folder = checkpoints.list_checkpoints(run)[0]
    return [(folder / name).read_bytes() for name in (checkpoints.ADAPTER, checkpoints.OPTIMIZER)]


def steps_in_journal(run: Path) -> int:
    return max((event["step"] for event in read_journal(run) if event["event"] == "step"), default=0)


def close_to(state: Any, alone: Any) -> bool:
    """Whether a run's state has the losses and, nearly, the adapters of one that was trained in one process."""
    assert state.losses == pytest.approx(alone.losses, rel=1e-5)
    for path, weights in state.adapter.items():
        assert relative_error(weights.up, alone.modules[path].up) < 1e-4
        assert relative_error(weights.down, alone.modules[path].down) < 1e-4
    return True


# ---- several processes, forked -------------------------------------------------------------------------------


class Processes:
    """The program in forked processes that know of each other as torchrun would tell them."""

    def __init__(self, folder: Path, *arguments: object, count: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [folder / f"log{rank}" for rank in range(count)]
        self.pids = [self._start(rank, count, port, [str(a) for a in arguments]) for rank in range(count)]

    def _start(self, rank: int, count: int, port: int, arguments: list[str]) -> int:
        if pid := os.fork():
            return pid
        try:
            if count > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            sys.stderr = self.logs[rank].open("w", buffering=1)
            logging.root.handlers.clear()
            os._exit(program.main([*arguments, "--cpu", "--comfyui", str(COMFYUI_ROOT)]))
        finally:
            traceback.print_exc()
            os._exit(70)

    def wait(self) -> list[int]:
        """Exit codes by rank; a process that does not end in time is killed, which is a code too."""
        deadline = time.monotonic() + TIMEOUT_S
        codes = {}
        while len(codes) < len(self.pids):
            for pid in set(self.pids) - set(codes):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return [codes[pid] for pid in self.pids]

    def wait_for_step(self, run_in: Path, step: int) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                if steps_in_journal(run_of(run_in)) >= step:
                    return
            time.sleep(0.01)
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"{self.wait()} {self.words()}")

    def words(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()


def together(folder: Path, *arguments: object, count: int = 2) -> Processes:
    """Run the program to its end."""
    processes = Processes(folder, *arguments, count=count)
    assert processes.wait() == [0] * count, "\n".join(map(processes.words, range(count)))
    return processes


@needs_fork
@pytest.mark.parametrize(
    ("count", "batch_size", "accumulation"),
    [(2, 2, 1), (2, 1, 2), (2, 3, 2), (3, 2, 3), (4, 4, 1)],
)
def test_the_same_step_gives_the_same_loss_however_it_is_shared(
    train: Callable[..., Any], written: Path, tmp_path: Path, count: int, batch_size: int, accumulation: int
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=6, batch_size=batch_size, gradient_accumulation=accumulation)
    alone = train(tmp_path / "alone", settings)
    together(tmp_path, copied(written, tmp_path / "shared", settings), count=count)
    assert close_to(newest(run_of(tmp_path / "shared")), alone)
    assert "no longer equal" not in (tmp_path / "log0").read_text()


def test_a_share_is_a_part_of_the_step_and_all_shares_are_the_step() -> None:
    for batch_size, accumulation, world in [(1, 6, 1), (2, 3, 2), (4, 3, 4), (3, 4, 6), (64, 1, 64)]:
        settings = dataclasses.replace(SETTINGS, batch_size=batch_size, gradient_accumulation=accumulation)
        whole = plan.plan_step(settings, 3, 5, 64, 64)
        shares = [plan.plan_step(settings, 3, 5, 64, 64, rank=rank, world=world) for rank in range(world)]

        def flat(micros: list[Any]) -> list[Any]:
            return [
                (micro.first_position + place, item, sigma)
                for micro in micros
                for place, (item, sigma) in enumerate(zip(micro.items, micro.sigmas, strict=True))
            ]

        assert flat([micro for share in shares for micro in share]) == flat(whole)
        assert len({len(flat(share)) for share in shares}) == 1
        assert all(len(micro.items) <= batch_size for share in shares for micro in share)


@needs_fork
def test_a_step_that_cannot_be_shared_equally_is_refused_with_the_numbers_that_work(
    written: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, batch_size=2, gradient_accumulation=3)
    processes = Processes(tmp_path, copied(written, tmp_path / "a", settings), count=4)
    assert processes.wait() == [1] * 4
    assert "6 images" in processes.words() and "multiple of 4" in processes.words()
    assert "processes: 1, 2, 3, 6." in processes.words()
    assert "Traceback" not in processes.words() + processes.words(1)
    assert not (tmp_path / "a" / "runs").exists()


@needs_fork
@pytest.mark.parametrize("count", [1, 2])
def test_another_process_can_ask_it_to_save_and_to_stop(written: Path, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "run"
    path = copied(written, folder, LONG)
    processes = Processes(tmp_path, path, count=count)
    processes.wait_for_step(folder, 2)
    run = run_of(folder)
    assert program.main([str(run), "--ask", "save"]) == 0
    while not any(event["event"] == "checkpoint" for event in read_journal(run)):
        processes.wait_for_step(folder, 0)
    assert program.main([str(run), "--ask", "stop"]) == 0
    # Several processes cannot end well at once: they are cancelled, which keeps as much.
    assert processes.wait() == ([0] if count == 1 else [1, 1]), processes.words()
    stopped = [event for event in read_journal(run) if event["event"] == "stopped"]
    assert stopped[-1]["reason"] in (("kept",) if count == 1 else ("cancelled", "peer_stopped"))
    assert newest(run).step == stopped[-1]["step"] < LONG.steps
    assert list((folder / "loras").glob("*.safetensors"))
    assert program.main([str(run), "--ask", "stop"]) == 1, "nobody is there to be asked"


@needs_fork
def test_killed_cancelled_and_gone_on_with_by_another_number_of_processes(
    train: Callable[..., Any], written: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    path = copied(written, folder, LONG)

    processes = Processes(tmp_path, path, count=2)
    processes.wait_for_step(folder, 3)
    os.kill(processes.pids[1], signal.SIGKILL)
    assert processes.wait() == [1, -signal.SIGKILL], processes.words()
    run = run_of(folder)
    assert "Another of the 2 processes was ended" in processes.words()
    killed_at = newest(run).step
    assert killed_at == steps_in_journal(run) >= 3, "nothing that was done is lost"

    processes = Processes(tmp_path, run / "run.json", count=2)
    processes.wait_for_step(folder, killed_at + 3)
    for pid in processes.pids:  # as a terminal does
        os.kill(pid, signal.SIGINT)
    assert processes.wait() == [1, 1], processes.words()
    cancelled_at = newest(run).step
    assert cancelled_at == steps_in_journal(run) >= killed_at + 3
    stopped = [event["reason"] for event in read_journal(run) if event["event"] == "stopped"]
    assert stopped[0] == "peer_stopped"
    assert stopped[1] in ("cancelled", "peer_stopped"), "whichever process heard of it first"

    together(tmp_path, run, "--steps", cancelled_at + 2, count=1)
    alone = train(tmp_path / "alone", dataclasses.replace(LONG, steps=cancelled_at + 2))
    assert close_to(newest(run), alone)
    assert len(list((folder / "runs").iterdir())) == 1
    resumed = [event for event in read_journal(run) if event["event"] == "resumed"]
    assert any("processes: 2 before" in line for line in resumed[-1]["changes"])


class Broken(Exception):
    pass


@pytest.fixture(scope="module")
def five_steps_of_two(written: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Adapter and optimiser after five steps that two processes did without a break."""
    folder = tmp_path_factory.mktemp("undisturbed")
    together(folder, copied(written, folder, dataclasses.replace(LONG, steps=5)))
    return files_of(run_of(folder))


@needs_fork
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("error", [Broken("no luck"), torch.OutOfMemoryError("Allocation of 5 GB"), SettingsError("x")])
def test_whatever_happens_to_one_process_ends_all_and_the_first_saves(
    written: Path, tmp_path: Path, five_steps_of_two: list[bytes], rank: int, error: Exception
) -> None:
    original, calls = loop.velocity_loss, 0

    def fail(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if os.environ.get("RANK") == str(rank) and calls > 6:
            raise error
        return original(*args)

    path = copied(written, tmp_path / "run", LONG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "velocity_loss", fail)
        processes = Processes(tmp_path, path, count=2)
        codes = processes.wait()
    unexpected = isinstance(error, Broken)
    assert codes[rank] == (70 if unexpected else 1) and codes[1 - rank] == 1, processes.words()
    assert newest(run_of(tmp_path / "run")).step == 3, "two forward passes a step; the fourth was not finished"
    if isinstance(error, torch.OutOfMemoryError):
        assert "memory_mode to offloaded" in processes.words()
    elif rank:
        assert f"Process 2 of 2 stopped: {'Broken: no luck' if unexpected else 'x'}" in processes.words()

    together(tmp_path, run_of(tmp_path / "run"), "--steps", 5)
    assert files_of(run_of(tmp_path / "run")) == five_steps_of_two, "bit for bit, with as many processes"


@needs_fork
def test_a_process_with_another_run_is_refused(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(written, tmp_path / "a", SETTINGS)
    other = copied(written, tmp_path / "b", dataclasses.replace(SETTINGS, seed=1))
    original = program.read_run_file
    monkeypatch.setattr(program, "read_run_file", lambda p: original(other if os.environ.get("RANK") == "1" else p))
    processes = Processes(tmp_path, path, count=2)
    assert processes.wait() == [1, 1]
    assert "Process 2 of 2 stopped: It has other settings" in processes.words()
    assert list((tmp_path / "a" / "runs").iterdir()) == []


# ---- the documented command ----------------------------------------------------------------------------------

# Python reads this file at its start; users have no such file. ComfyUI's loader then opens the tiny models too.
SITECUSTOMIZE = f"""
import importlib.util, sys

class AfterComfy:
    def find_spec(self, name, path=None, target=None):
        if name != "comfy.sd":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            tiny = importlib.util.spec_from_file_location("tiny", {str(ROOT / "tests/tiny/tiny_pack/__init__.py")!r})
            sys.modules["tiny"] = importlib.util.module_from_spec(tiny)
            tiny.loader.exec_module(sys.modules["tiny"])
            sys.modules["tiny"].register()
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, AfterComfy())
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A ComfyUI with the pack in its custom_nodes."""
    comfyui = tmp_path / "ComfyUI"
    comfyui.mkdir()
    for path in COMFYUI_ROOT.iterdir():
        if path.name != "custom_nodes":
            (comfyui / path.name).symlink_to(path)
    pack = comfyui / "custom_nodes" / "ideogram4-lora-trainer"
    pack.mkdir(parents=True)
    for name in ("__init__.py", "nodes", "trainer_core"):
        (pack / name).symlink_to(ROOT / name)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return comfyui


def command(comfyui: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(comfyui.parent / "site")}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        cwd=comfyui,
        env=environment,
    )


@needs_fork
def test_torchrun_with_two_processes_gives_what_one_process_gives(
    train: Callable[..., Any], written: Path, tmp_path: Path, installed: Path
) -> None:
    alone = train(tmp_path / "alone")
    path = copied(written, tmp_path / "shared", SETTINGS)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = command(installed, *torchrun, "custom_nodes/ideogram4-lora-trainer/trainer_core", path, "--cpu")
    assert done.returncode == 0, done.stderr
    assert close_to(newest(run_of(tmp_path / "shared")), alone)
    assert "step 20 / 20" in done.stderr
    (lora,) = (tmp_path / "shared" / "loras").iterdir()
    assert lora.name == "ideogram4_00001_step_000020.safetensors"
    assert set(read_lora(lora).modules) == set(alone.modules)


@needs_fork
@pytest.mark.parametrize("how", ["by path", "as a module", "no ComfyUI"])
def test_a_wrong_command_is_answered_with_a_sentence(written: Path, tmp_path: Path, installed: Path, how: str) -> None:
    entry = ["custom_nodes/ideogram4-lora-trainer/trainer_core"]
    expected = "run.json cannot be used: it is no JSON from line 1 on"
    (tmp_path / "run.json").write_text("{torn")
    if how == "as a module":
        installed = installed / "custom_nodes" / "ideogram4-lora-trainer"
        entry = ["-m", "trainer_core"]
    elif how == "no ComfyUI":
        copied(written, tmp_path, SETTINGS)
        entry += ["--comfyui", str(tmp_path)]
        expected = f"{tmp_path} is not ComfyUI's folder"
    done = command(installed, *entry, tmp_path / "run.json", "--cpu")
    assert done.returncode == 1
    assert expected in done.stderr and done.stderr.count("\n") == 1, done.stderr


# ---- alone: going on, starting anew --------------------------------------------------------------------------


class Cancelled(BaseException):
    pass


@needs_fork
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_of_the_node_is_gone_on_with_bit_for_bit(
    train: Callable[..., Any], tmp_path: Path, accumulation: int
) -> None:
    settings = dataclasses.replace(SETTINGS, steps=9, gradient_accumulation=accumulation, schedule="cosine")

    def stop(report: Any) -> None:
        if report.step == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(tmp_path / "stopped", settings, on_step=stop)
    run = run_of(tmp_path / "stopped")
    (tmp_path / "moved").mkdir()
    shutil.move(run, tmp_path / "moved")
    run = tmp_path / "moved" / run.name
    processes = together(tmp_path, run / "run.json", count=1)

    whole = train(tmp_path / "whole", settings)
    assert "Going on with ideogram4_00001 from step 4 of 9" in processes.words()
    assert files_of(run) == files_of(run_of(tmp_path / "whole"))
    assert list(newest(run).losses) == whole.losses
    assert not [event for event in read_journal(run) if event["event"] == "resumed" and event["changes"]]

    loras = sorted((tmp_path / "stopped" / "loras").iterdir())
    together(tmp_path, run, count=1)
    assert sorted((tmp_path / "stopped" / "loras").iterdir()) == loras, "a complete run is not saved twice"
    shown = read_lora(loras[-1]).modules
    for path, weights in whole.modules.items():
        assert torch.equal(shown[path].up, weights.up.bfloat16().float())


@needs_fork
def test_a_new_run_begins_where_the_file_has_no_checkpoints_or_a_name_is_given(
    train: Callable[..., Any], patcher: Any, tmp_path: Path
) -> None:
    first = train(tmp_path / "first", dataclasses.replace(SETTINGS, steps=2))
    (lora,) = checkpoints.list_checkpoints(run_of(tmp_path / "first"))[:1]
    place = place_under(
        tmp_path / "second",
        start_modules=first.modules,
        start_lora="first",
        start_lora_file=str(lora / checkpoints.ADAPTER),
        name="mine",
    )
    settings = dataclasses.replace(SETTINGS, steps=3)
    second = train(tmp_path / "second", settings, place=place)
    run = run_of(tmp_path / "second")

    together(tmp_path, run, "--run-name", "again", count=1)
    assert list(newest(run.parent / "again_00001").losses) == second.losses, "it began with the same LoRA"
    shutil.copy(run / "run.json", tmp_path / "copy.json")
    together(tmp_path, tmp_path / "copy.json", "--steps", 2, count=1)
    assert list(newest(run.parent / "mine_00002").losses) == second.losses[:2]

    (lora / checkpoints.ADAPTER).unlink()
    together(tmp_path, run, "--steps", 4, count=1)
    assert newest(run).step == 4, "to go on, the LoRA is not needed"
    body = json.loads((run / "run.json").read_bytes())
    assert body["settings"]["steps"] == 4 and body["run"]["start_lora_file"], "the file is of the newest start"


# ---- run.json ------------------------------------------------------------------------------------------------


def test_run_json_says_what_is_trained_and_reads_back_the_same(written: Path, data: Any, patcher: Any) -> None:
    found = run_file.read_run_file(written)
    assert found.to_bytes() == written.read_bytes()
    again = found.training_data()
    assert again.items == data.items and again.fingerprint == data.fingerprint
    assert (again.width, again.height, again.projection) == (data.width, data.height, data.projection)
    for name in ("shift", "scale"):
        assert torch.equal(getattr(again.vae_statistics, name), getattr(data.vae_statistics, name))
    assert found.model["file"] == patcher.cached_patcher_init[1][0]
    assert found.model_options() == {}
    lines = written.read_text().splitlines()
    assert max(map(len, lines)) < 4000 and len(lines) < 80, "for people, too"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_the_weights_are_loaded_again_in_their_type(
    tiny_model: Callable[..., Any], data: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    described = run_file.describe_run(tiny_model("bf16", dtype=dtype), data, SETTINGS, place_under(tmp_path))
    assert described is not None and described.model_options() == {"dtype": dtype}


def test_a_model_that_no_file_describes_gets_no_run_json(
    train: Callable[..., Any], patcher: Any, data: Any, tmp_path: Path
) -> None:
    train(tmp_path, dataclasses.replace(SETTINGS, steps=1))
    path = run_of(tmp_path) / "run.json"
    assert path.exists()
    patched, shifted, unknown = (patcher.clone() for _ in range(3))
    patched.add_patches({"diffusion_model.layers.0.attention.o.weight": ("diff", (torch.zeros(256, 256),))})
    shifted.add_object_patch("model_sampling", patcher.get_model_object("model_sampling"))
    unknown.cached_patcher_init = None
    for model in (patched, shifted, unknown):
        assert run_file.describe_run(model, data, SETTINGS, place_under(tmp_path)) is None
    place = place_under(tmp_path, resume=path.parent.name)
    train(tmp_path, dataclasses.replace(SETTINGS, steps=2), place=place, patcher=shifted)
    assert not path.exists(), "one that is no longer true is worse than none"


def test_names_that_are_not_unicode_survive(written: Path, tmp_path: Path) -> None:
    found = run_file.read_run_file(written)
    items = [{**found.data["items"][0], "name": "a\udcff.png", "caption": 'é "quoted" \u2028 \\'}]
    odd = dataclasses.replace(found, data={**found.data, "items": items})
    (tmp_path / "run.json").write_bytes(odd.to_bytes())
    assert run_file.read_run_file(tmp_path / "run.json") == odd


def changed(**entries: Any) -> Callable[[dict[str, Any]], None]:
    """Set entries by path: `changed(model__file="x")`."""

    def change(body: dict[str, Any]) -> None:
        for path, value in entries.items():
            *groups, last = path.split("__")
            place = body
            for group in groups:
                place = place[int(group) if group.isdigit() else group]
            place[last] = value

    return change


DAMAGE: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda body: body.pop("settings"), "settings is missing"),
    (lambda body: body["data"]["items"][1].pop("caption"), r"data.items\[1\].caption is missing"),
    (changed(settings__rank=0), "rank must be a whole number from 1 to 512"),
    (changed(settings__rnak=4), "Unknown setting rnak"),
    (changed(extra=1), "extra' is not known"),
    (changed(format=2), "newer version"),
    (changed(format="1"), "format is not a whole number"),
    (changed(model=[]), "model is not a group of entries"),
    (changed(model__file="weights.safetensors"), "model.file is not the full path"),
    (changed(model__file="/etc/passwd"), "model.file is not a safetensors file"),
    (changed(model__file="/a\0b.safetensors"), "model.file is not the full path"),
    (changed(model__weight_dtype="int64"), "model.weight_dtype is not one of default"),
    (changed(model__fp8_optimizations=1), "model.fp8_optimizations is not true or false"),
    (changed(data__items=[]), "data.items is not a list of images"),
    (changed(data__items__0__latent_key="../../secret"), r"items\[0\].latent_key is not the key"),
    (changed(data__items__0__text_key="/etc/x"), r"items\[0\].text_key is not the key"),
    (changed(data__width=True), "data.width is not a whole number"),
    (changed(data__width=10**9), "not a size in pixels"),
    (changed(data__vae_shift=[0.0] * 127), "data.vae_shift is not a list of 128 numbers"),
    (changed(data__vae_scale=[10**400] * 128), "data.vae_scale is not a list of 128 numbers"),
    (changed(data__vae_scale=[0] * 128), "not above zero"),
    (changed(data__cache="relative"), "data.cache is not the full path"),
    (changed(run__loras_folder=""), "run.loras_folder is not the full path"),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGE)
def test_a_wrong_entry_is_named(
    written: Path, tmp_path: Path, damage: Callable[[dict[str, Any]], object], expected: str
) -> None:
    body = json.loads(written.read_bytes())
    damage(body)
    path = tmp_path / "run.json"
    path.write_text(json.dumps(body))
    with pytest.raises(SettingsError, match=expected) as caught:
        run_file.read_run_file(path)
    assert str(caught.value).startswith(f"{path} cannot be used: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no JSON from line 1 on"),
        (b"\xff\xfe{}", "no text in UTF-8"),
        (b"[]", "holds no settings"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"format": NaN}', "NaN, which is no number"),
        (b'{"format": ' + b"9" * 5000 + b"}", "cannot be used"),
        (b" " * (run_file.MAX_BYTES + 1), "more than 67,108,864 bytes"),
    ],
    ids=["empty", "not text", "a list", "deep", "NaN", "a giant", "large"],
)
def test_a_file_that_is_no_run_json_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected):
        run_file.read_run_file(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_pipes_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(SettingsError, match="cannot be used"):
            run_file.read_run_file(tmp_path / name)


def test_encodings_that_are_not_there_are_told_of_before_anything_is_loaded(written: Path, tmp_path: Path) -> None:
    found = run_file.read_run_file(written)
    shutil.copytree(found.data["cache"], tmp_path / "cache")
    here = dataclasses.replace(found, data={**found.data, "cache": str(tmp_path / "cache")})
    here.training_data()
    wrong_size = dataclasses.replace(here, data={**here.data, "width": 128})
    with pytest.raises(SettingsError, match="encoded at 64x64, not at the 128x64"):
        wrong_size.training_data()
    (tmp_path / "cache" / "01" / "01aa.safetensors").unlink()
    (tmp_path / "cache" / "03" / "03bb.safetensors").write_bytes(b"torn")
    with pytest.raises(SettingsError, match=r"Of 5 images, 2 have no encoding .* made in ComfyUI"):
        here.training_data()


@needs_fork
def test_a_model_that_is_gone_or_is_another_is_told_of(written: Path, tmp_path: Path) -> None:
    path = copied(written, tmp_path / "run", SETTINGS)
    body = json.loads(path.read_bytes())
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for file, expected in (("gone", "is not there. Set model.file"), ("other", "cannot open")):
        body["model"]["file"] = str(tmp_path / f"{file}.safetensors")
        path.write_text(json.dumps(body))
        processes = Processes(tmp_path, path, count=1)
        assert processes.wait() == [1]
        assert expected in processes.words() and "Traceback" not in processes.words()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str | None]]:
    def choose(listed: str | None, visible: str | None, rank: int | None) -> str | None:
        for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("LOCAL_RANK", rank)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", "")
        program._choose_gpu(listed)
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    yield choose


def test_every_process_sees_one_gpu_of_those_that_are_to_be_used(gpus: Callable[..., str | None]) -> None:
    assert gpus(None, None, None) is None, "alone, ComfyUI chooses"
    assert gpus("1", None, None) == "1", "ComfyUI's --cuda-device"
    assert [gpus(None, None, rank) for rank in range(3)] == ["0", "1", "2"]
    assert [gpus(None, "4,GPU-6e1", rank) for rank in range(2)] == ["4", "GPU-6e1"]
    with pytest.raises(SettingsError, match="names 2 GPUs"):
        gpus(None, "4,5", 2)
