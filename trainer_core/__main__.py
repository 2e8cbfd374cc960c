"""Train without a server, from the run.json of a run: `python <this folder> run.json`. See docs/headless.md."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__:  # else Python was given the path of this folder, and `_in_a_package` starts again in a package
    from .errors import SettingsError, UserError, WrongModel
    from .training.lock import is_locked
    from .training.requests import REQUESTS, ask
    from .training.run_file import RUN_FILE, RunFile, read_run_file

if TYPE_CHECKING:
    from .training.loop import TrainedLora
    from .training.parallel import Team
    from .training.report import StepReport
    from .training.runs import RunPlace

log = logging.getLogger("ideogram4_lora_trainer")

PACKAGE = "ideogram4_lora_trainer_core"
PROGRESS_S = 10.0
"""Time between two lines of progress."""


def main(arguments: Sequence[str]) -> int:
    """Train as the command line says, and return the exit code: 0, or 1 after a sentence about what went wrong."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, for_comfyui = _parser().parse_args(arguments[:end]), arguments[end + 1 :]
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1
    follows = together and os.environ.get("RANK") != "0"
    prefix, level = (f"[{os.environ.get('RANK')}] ", logging.WARNING) if follows else ("", logging.INFO)
    logging.basicConfig(stream=sys.stderr, level=level, format=f"{prefix}%(message)s")
    try:
        path = run_file_path(options.run_file)
        if options.ask:
            ask_of_run(path.parent, options.ask)
            return 0
        run_file = read_run_file(path)
        if options.steps is not None:
            settings = dataclasses.replace(run_file.settings, steps=options.steps)
            run_file = dataclasses.replace(run_file, settings=settings)
        start_comfyui(find_comfyui(options.comfyui), [*["--cpu"] * options.cpu, *for_comfyui])
        return _in_team(run_file, path, options, alone=not together)
    except UserError as error:
        # What another process says is its own to say.
        log.log(logging.INFO if error.code == "peer_stopped" and follows else logging.ERROR, "%s", error)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python trainer_core",
        description="Train a LoRA without a server, from the run.json in the folder of a run. A run that has "
        "checkpoints is gone on with; a run.json elsewhere starts a new one.",
        epilog="What follows -- goes to ComfyUI, as on its own command line: -- --reserve-vram 2",
    )
    parser.add_argument("run_file", help="run.json, or the folder of a run")
    parser.add_argument("--steps", type=int, help="train to this many steps in all, instead of what run.json says")
    parser.add_argument(
        "--ask", choices=REQUESTS, help="instead of training, ask this of the process that is training the run"
    )
    parser.add_argument("--run-name", default="", help="start a new run of this name; a number is added")
    parser.add_argument(
        "--continue-anyway", action="store_true", help="go on although settings, data or model were changed"
    )
    parser.add_argument("--comfyui", default="", help="ComfyUI's folder, where this pack is not inside of it")
    parser.add_argument("--cpu", action="store_true", help="train on the processor")
    return parser


def ask_of_run(folder: Path, what: str) -> None:
    """Raises `SettingsError` where nobody is training that run."""
    if not is_locked(folder):
        raise SettingsError(f"Nobody is training {folder.name}, so nobody can be asked. Start it, or check its name.")
    ask(folder, what)
    log.info("%s is asked to %s; it will, after the step that it is at.", folder.name, what)


def run_file_path(text: str) -> Path:
    """The run.json that is meant, links followed."""
    path = Path(os.path.realpath(text))
    return path / RUN_FILE if path.is_dir() else path


# ---- ComfyUI without its server ------------------------------------------------------------------------------


def find_comfyui(chosen: str) -> Path:
    """ComfyUI's folder: the one chosen, or the one that this pack or the terminal is in. Raises `SettingsError`."""
    here = Path(os.path.abspath(__file__))
    around = [*here.parents, *here.resolve().parents, Path.cwd(), *Path.cwd().parents]
    for folder in [Path(os.path.abspath(chosen))] if chosen else around:
        if (folder / "comfy" / "cli_args.py").is_file():
            return folder
    where = f"{chosen} is not ComfyUI's folder" if chosen else f"There is no ComfyUI around {here.parents[1]}"
    raise SettingsError(f"{where}. Name the folder that holds its main.py with --comfyui.")


def start_comfyui(root: Path, options: Sequence[str]) -> None:
    """Make ComfyUI importable and let it read its options, before anything asks it for a device.

    Raises `SettingsError` where there is no GPU for this process.
    """
    ours = {os.path.realpath(folder) for folder in Path(__file__).resolve().parents[:2]}
    # The pack's own folder has a `nodes`, as ComfyUI has.
    sys.path[:] = [str(root), *(entry for entry in sys.path if os.path.realpath(entry or ".") not in ours)]
    sys.argv = ["ComfyUI", *options]
    comfy_options: Any = importlib.import_module("comfy.options")
    comfy_options.enable_args_parsing()
    args: Any = importlib.import_module("comfy.cli_args").args
    if not args.cpu:
        _choose_gpu(args.cuda_device)
        _require_gpu(args)


def _choose_gpu(listed: str | None) -> None:
    """Let this process see the one GPU that is its own among those of the machine, before CUDA starts."""
    visible = [name for name in (listed or os.environ.get("CUDA_VISIBLE_DEVICES", "")).split(",") if name]
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None:
        if visible and int(rank) >= len(visible):
            names = ",".join(visible)
            raise SettingsError(f"CUDA_VISIBLE_DEVICES names {len(visible)} GPUs ({names}), fewer than processes.")
        visible = [visible[int(rank)] if visible else rank]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ",".join(visible)


def _require_gpu(args: Any) -> None:
    import torch

    accelerator = getattr(torch, "accelerator", None)  # from torch 2.6 on
    if accelerator and args.directml is None and not accelerator.is_available():
        own = f" number {os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else ""
        raise SettingsError(
            f"No GPU{own} was found. Start no more processes on a machine than it has GPUs; --cpu trains without one."
        )


def load_model(run_file: RunFile) -> Any:
    """The `ModelPatcher` of the run's model. Raises `SettingsError` and `WrongModel`."""
    import comfy.sd

    from .model import host

    file = run_file.model["file"]
    if not os.path.isfile(file):
        raise SettingsError(f"The model {file} is not there. Set model.file in run.json to its full path.")
    log.info("Loading %s", file)
    try:
        return comfy.sd.load_diffusion_model(file, model_options=run_file.model_options())
    except Exception as error:
        # Boundary with ComfyUI's loader: what it raises depends on what is wrong with the file.
        if host.is_out_of_memory(error):
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WrongModel(f"ComfyUI cannot open {file} as Ideogram 4: {reason}") from error


# ---- training ------------------------------------------------------------------------------------------------


def _in_team(run_file: RunFile, path: Path, options: argparse.Namespace, *, alone: bool) -> int:
    """Train, alone or with the other processes that torchrun started. Returns the exit code."""
    import comfy.model_management

    from .model import host
    from .training.parallel import join_team

    _catch_signals(alone=alone)
    try:
        with join_team(comfy.model_management.get_torch_device()) as team:
            _train(run_file, path, options, team)
    except BaseException as error:
        # Boundary of the program: a cancel is no error of ours, and has been told of by the run.
        if not host.is_interrupt(error) and not isinstance(error, KeyboardInterrupt):
            raise
        log.warning("Cancelled. A run that has a folder goes on from there with its own run.json.")
        return 1
    return 0


def _train(run_file: RunFile, path: Path, options: argparse.Namespace, team: Team) -> None:
    import torch

    from .training.loop import train

    data = run_file.training_data()
    place = run_place(run_file, path, options, team)
    # As inside a node, so that ComfyUI's weights are of the same kind.
    with torch.inference_mode():
        patcher = load_model(run_file)
        trained = train(patcher, data, run_file.settings, place, team=team, on_step=_progress())
    if team.leads:
        log.info("The LoRA is %s", save_result(trained, place.loras_folder))


def run_place(run_file: RunFile, path: Path, options: argparse.Namespace, team: Team) -> RunPlace:
    """The run that the file lies in, where it has checkpoints and no new name is given; else a new one."""
    from .lora_files import read_lora
    from .training.checkpoints import list_checkpoints
    from .training.runs import RunPlace

    run, folder = run_file.run, path.parent
    place = RunPlace(
        runs_folder=Path(run["runs_folder"]),
        loras_folder=Path(run["loras_folder"]),
        name=options.run_name or run["name"],
        continue_anyway=options.continue_anyway,
        start_lora=run["start_lora"],
        start_lora_file=run["start_lora_file"],
    )
    if list_checkpoints(folder):
        place = dataclasses.replace(place, runs_folder=folder.parent, resume="" if options.run_name else folder.name)
    if place.start_lora and not place.resume and team.leads:
        if not place.start_lora_file:
            raise SettingsError(f"{path}: run.start_lora_file does not say where {place.start_lora} is.")
        place = dataclasses.replace(place, start_modules=read_lora(Path(place.start_lora_file)).modules)
    return place


def save_result(trained: TrainedLora, folder: Path) -> Path:
    """Write the LoRA in ComfyUI's keys, unless that has been done. Raises `SaveFailed` and `NonFinite`."""
    from .lora_files import build_metadata, read_header, save_lora
    from .training.checkpoints import checkpoint_name

    stem = f"{trained.run}_{checkpoint_name(trained.record.trained_steps)}"
    metadata = build_metadata(trained.record, title=stem)
    path = folder / f"{stem}.safetensors"
    with contextlib.suppress(UserError, OSError):
        if metadata.items() <= read_header(path)[1].items():
            return path
    return save_lora(trained.modules, folder=folder, stem=stem, layout="comfy", metadata=metadata)


def _catch_signals(*, alone: bool) -> None:
    """Let Ctrl-C and a polite kill end training as *Cancel* does: between two forward passes, with everything saved.

    Alone, a second Ctrl-C ends it where it is, which saves too. torchrun sends several signals for one Ctrl-C.
    """
    import comfy.model_management

    def cancel(number: int, frame: Any) -> None:
        comfy.model_management.interrupt_current_processing()
        if alone:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, cancel)


def _progress() -> Callable[[StepReport], None]:
    due = 0.0

    def show(report: StepReport) -> None:
        nonlocal due
        now = time.monotonic()
        if now < due and report.step != report.steps:
            return
        due = now + PROGRESS_S
        log.info(
            "step %d / %d, loss %.4f (smoothed), %.2f s/step, %.0f min left",
            report.step,
            report.steps,
            report.smoothed_loss,
            report.seconds_per_step,
            report.seconds_left / 60,
        )

    return show


def _in_a_package() -> Any:
    """This file as part of a package, whatever the folders above it are called, without putting one on sys.path."""
    folder = Path(os.path.abspath(__file__)).parent
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is incomplete")
    package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.__main__")


if __name__ == "__main__":
    run = main if __package__ else _in_a_package().main
    sys.exit(run(sys.argv[1:]))
