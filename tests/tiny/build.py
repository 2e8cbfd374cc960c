"""Build tiny Ideogram 4 models that ComfyUI's own loaders accept.

    python tests/tiny/build.py --comfyui PATH_OF_COMFYUI --dev FOLDER

writes FOLDER/tiny-models-<version>/ with diffusion_models, text_encoders and vae, unless it is there already, and
prints its path as the last line. Everything is seeded; the version is a hash of the sources.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
PARTS = ("models", "pictures", "teach")
SOURCES = (*(f"{part}.py" for part in PARTS), "tiny_pack/__init__.py")


def load_file(name: str, path: Path) -> ModuleType:
    """Import one Python file under a name of our choice, without touching sys.path."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"Cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def models_folder(dev: Path) -> Path:
    """Where the models of this version of the builder belong; any change to its sources gives another folder."""
    digest = hashlib.sha256()
    for source in SOURCES:
        digest.update((HERE / source).read_bytes())
    return dev / f"tiny-models-{digest.hexdigest()[:12]}"


def build_once(folder: Path) -> None:
    """Build beside `folder` and rename, so that it never exists half done; older versions are removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        models, pictures, teach = (load_file(f"tiny_{name}", HERE / f"{name}.py") for name in PARTS)
        models.write_all(aside, pictures=pictures, teach=teach)
        os.replace(aside, folder)
    except OSError:
        if not folder.exists():  # else another process won the race, with the same bytes
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in folder.parent.glob("tiny-models-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="a ComfyUI source tree")
    parser.add_argument("--dev", type=Path, required=True, help="folder to keep the models in")
    arguments = parser.parse_args()
    folder = models_folder(arguments.dev.resolve())
    if not folder.exists():
        sys.path.insert(0, str(arguments.comfyui.resolve()))
        import comfy.options

        comfy.options.args_parsing = False  # the command line is ours
        from comfy.cli_args import args

        args.cpu = True
        import torch

        torch.set_num_threads(1)  # the matrices are too small to share, least of all on a busy machine
        load_file("tiny_pack", HERE / "tiny_pack" / "__init__.py").register()
        build_once(folder)
    print(folder)


if __name__ == "__main__":
    main()
