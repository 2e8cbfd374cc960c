"""How tests meet the pack and ComfyUI: the pack loaded as ComfyUI loads it, tiny models, and a real server.

ComfyUI's tree has top-level packages named `tests`, `nodes`, `server`, `utils` and `app`; so there is no
`__init__.py` under tests/, and the pack's root is never on sys.path.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "tests" / "tiny"
COMFYUI_ROOT = Path(os.environ.get("COMFYUI_ROOT") or ROOT / ".dev" / "ComfyUI").resolve()
PACK_NAME = "ideogram4_lora_trainer"

# The tiny models' matrices are too small to share between threads: on a busy machine two are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _load_file(name: str, path: Path) -> ModuleType:
    module = _module_for(name, path)
    module.__spec__.loader.exec_module(module)
    return module


def _module_for(name: str, path: Path, package: Path | None = None) -> ModuleType:
    search = None if package is None else [str(package)]
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    return module


def _load_comfyui() -> None:
    """Put ComfyUI on sys.path and choose the device, the CPU unless TEST_DEVICE=cuda, before anything asks for it."""
    if not (COMFYUI_ROOT / "comfy").is_dir():
        pytest.exit(f"No ComfyUI at {COMFYUI_ROOT}. Run `python dev.py test`, or set COMFYUI_ROOT.", returncode=4)
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, ROOT / "tests")]
    sys.path.insert(0, str(COMFYUI_ROOT))
    import comfy.options

    comfy.options.args_parsing = False  # the command line is pytest's
    from comfy.cli_args import args

    args.cpu = os.environ.get("TEST_DEVICE") != "cuda"


_load_comfyui()
host = _load_file("tiny_host", TINY / "host.py")
_load_file("tiny_pack", TINY / "tiny_pack" / "__init__.py").register()
# Known under one fixed name, so that tests can import its parts; its own __init__ runs only for `pack`. That keeps
# the core testable without the nodes.
_pack = _module_for(PACK_NAME, ROOT / "__init__.py", package=ROOT)


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """The pack after its `__init__` ran, as ComfyUI sees it."""
    _pack.__spec__.loader.exec_module(_pack)
    return _pack


# ---- tiny models ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    """The models folder with diffusion_models, text_encoders and vae; built once and kept in .dev/."""
    command = [sys.executable, str(TINY / "build.py"), "--comfyui", str(COMFYUI_ROOT), "--dev", str(ROOT / ".dev")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def tiny_model(tiny_models: Path) -> Callable[..., Any]:
    """`tiny_model("bf16")` loads a fresh model as UNETLoader does: inference tensors in a ModelPatcher.

    Formats: fp32, bf16, fp8_scaled, nvfp4, int8_convrot; `unconditional=True` gives the twin. On the CPU ComfyUI
    computes all of them in fp32; `dtype=torch.bfloat16` asks the loader for that instead.
    """
    import comfy.sd
    import torch

    def load(fmt: str = "bf16", *, unconditional: bool = False, dtype: torch.dtype | None = None) -> Any:
        twin = "unconditional_" if unconditional else ""
        path = tiny_models / "diffusion_models" / f"ideogram4_tiny_{twin}{fmt}.safetensors"
        with torch.inference_mode():
            return comfy.sd.load_diffusion_model(str(path), model_options={} if dtype is None else {"dtype": dtype})

    return load


@pytest.fixture(scope="session")
def tiny_clip(tiny_models: Path) -> Any:
    """The tiny text encoder as CLIPLoader(type=ideogram4) loads it."""
    import comfy.sd
    import torch

    path = tiny_models / "text_encoders" / "qwen3vl_tiny.safetensors"
    with torch.inference_mode():
        return comfy.sd.load_clip(ckpt_paths=[str(path)], clip_type=comfy.sd.CLIPType.IDEOGRAM4)


@pytest.fixture(scope="session")
def tiny_vae(tiny_models: Path) -> Any:
    """The tiny VAE as VAELoader loads it."""
    import comfy.sd
    import comfy.utils
    import torch

    path = tiny_models / "vae" / "flux2_tiny_vae.safetensors"
    with torch.inference_mode():
        sd, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
        return comfy.sd.VAE(sd=sd, metadata=metadata)


# ---- the real server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def comfy_server(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A real ComfyUI on a free port with this pack and the tiny one, in a base directory of its own.

    Gives `.client` (see tests/tiny/host.py), `.base`, `.input`, `.output` and `.log`.
    """
    base = tmp_path_factory.mktemp("comfy")
    log = base / "server.log"
    host.install_packs(base, tiny=True)
    port = host.free_port()
    command = host.server_command(
        Path(sys.executable), COMFYUI_ROOT, port=port, base=base, models=tiny_models, cpu=True
    )
    with host.running_server(command, port=port, log=log) as client:
        yield SimpleNamespace(client=client, base=base, input=base / "input", output=base / "output", log=log)


API_KEY = "a-key-that-only-tests-have"


@pytest.fixture(scope="session")
def standard_models(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models under the names that the released ones have."""
    folder = tmp_path_factory.mktemp("models")
    diffusion = "diffusion_models/ideogram4"
    names = {
        f"{diffusion}_tiny_fp8_scaled": f"{diffusion}_fp8_scaled",
        f"{diffusion}_tiny_unconditional_fp8_scaled": f"{diffusion}_unconditional_fp8_scaled",
        "text_encoders/qwen3vl_tiny": "text_encoders/qwen3vl_8b_fp8_scaled",
        "vae/flux2_tiny_vae": "vae/flux2-vae",
    }
    for source, target in names.items():
        path = folder / f"{target}.safetensors"
        path.parent.mkdir(exist_ok=True)
        try:
            path.symlink_to(tiny_models / f"{source}.safetensors")
        except OSError:  # Windows without developer mode
            shutil.copy(tiny_models / f"{source}.safetensors", path)
    return folder


@pytest.fixture(scope="session")
def start_api_server(standard_models: Path) -> Callable[..., Any]:
    """`with start_api_server(base) as server` runs a real ComfyUI over TLS with the HTTP API turned on.

    Gives as `comfy_server` does, and `.api` (https://localhost:PORT), `.certificate`, `.key` and `.port`.
    """
    from tls import write_certificate

    @contextlib.contextmanager
    def start(base: Path, *, port: int = 0, **environment: str) -> Iterator[SimpleNamespace]:
        host.install_packs(base, tiny=True)
        certificate, key = write_certificate(base)
        port = port or host.free_port()
        log = base / "server.log"
        command = host.server_command(
            Path(sys.executable),
            COMFYUI_ROOT,
            port=port,
            base=base,
            models=standard_models,
            cpu=True,
            extra=("--tls-keyfile", str(key), "--tls-certfile", str(certificate)),
        )
        environment = {
            "IDEOGRAM4_API_KEY": API_KEY,
            "IDEOGRAM4_ALLOW_HOSTS": "localhost",
            "SSL_CERT_FILE": str(certificate),
            **environment,
        }
        with host.running_server(
            command, port=port, log=log, environment=environment, certificate=certificate
        ) as client:
            yield SimpleNamespace(
                client=client,
                base=base,
                input=base / "input",
                output=base / "output",
                log=log,
                api=f"https://localhost:{port}",
                certificate=certificate,
                key=API_KEY,
                port=port,
            )

    return start


@pytest.fixture(scope="session")
def api_server(start_api_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for all tests that neither end it nor guess keys."""
    with start_api_server(tmp_path_factory.mktemp("api")) as server:
        yield server


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the end of the server's log beside a test that failed while using it."""
    outcome = yield
    report = outcome.get_result()
    used = getattr(item, "funcargs", {})
    server = used.get("comfy_server") or used.get("api_server")
    if report.failed and server is not None:
        report.sections.append(("ComfyUI server log", server.client.log_tail()))
