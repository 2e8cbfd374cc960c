"""Make example_workflows/ and subgraphs/ from the API graphs of example_workflows/api/, and the pictures in docs/.

    python dev.py test --collect-only          (once: sets up .dev/)
    .dev/venv/bin/python -m tests.e2e.make_workflows

needs Chromium and Node.js (see tests/support/browser.py). A real server lists placeholder files under the names of
the released models; the frontend loads each API graph, nodes are placed by workflow_layouts.mjs, and the frontend
itself writes the workflow and shows it for the picture. Those of docs/images/ are taken on the way from a zip to a LoRA
on the tiny models, which is also a test (test_user_story.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import browser, showcase
from tests.support import example_workflows as examples
from tests.tiny import build, host, pictures

ROOT = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_ROOT") or ROOT / ".dev" / "ComfyUI").resolve()
DOWNLOADS = "https://huggingface.co/Comfy-Org/Ideogram-4/resolve/main"


def main() -> int:
    if reason := browser.missing():
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), models=None) as client:
        browser.run_script("make_workflows.mjs", _workflows_payload(client.url))
        browser.run_script("make_blueprint.mjs", _blueprint_payload(client.url))
    with (
        tempfile.TemporaryDirectory() as folder,
        _server(Path(folder), models=build.models_folder(ROOT / ".dev")) as client,
    ):
        browser.run_script("user_story.mjs", _story_payload(client.url, Path(folder)))
    return 0


def _picture() -> bytes:
    image, _caption = pictures.draw_picture(5, 768, 768)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


@contextlib.contextmanager
def _server(base: Path, *, models: Path | None) -> Iterator[host.Client]:
    """A server with this pack on the tiny models, or without any on files that have the names of real ones."""
    tiny = models is not None
    models = models or examples.place_named_files(
        base, _picture(), dataset=showcase.showcase_zip(pictures.draw_picture, 12, troubles=False)
    )
    host.install_packs(base, tiny=tiny)
    port = host.free_port()
    command = host.server_command(Path(sys.executable), COMFYUI, port=port, base=base, models=models, cpu=True)
    with host.running_server(command, port=port, log=base / "server.log") as client:
        yield client


def _workflows_payload(url: str) -> dict[str, Any]:
    return {
        "url": url,
        "output": str(examples.FOLDER),
        "packId": examples.PACK,
        "graphs": {name: examples.load_api(name) for name in examples.FILES},
        "models": {
            loader: [{"name": name, "url": f"{DOWNLOADS}/{folder}/{name}", "directory": folder} for name in names]
            for loader, (folder, names) in examples.MODEL_FILES.items()
        },
    }


def _blueprint_payload(url: str) -> dict[str, Any]:
    graph = examples.load_api("train_from_zip")
    ids = {node["class_type"]: key for key, node in graph.items()}
    load, size, train = (
        ids[name] for name in ("Ideogram4LoadDataset", "Ideogram4ResolveResolution", "Ideogram4TrainLoRA")
    )
    examples.BLUEPRINT.parent.mkdir(exist_ok=True)
    return {
        "url": url,
        "graph": graph,
        "packId": examples.PACK,
        "blueprint": {
            "file": str(examples.BLUEPRINT),
            "id": "1d0a7e2c-4f0b-4a63-9d0e-000000000101",
            "title": examples.BLUEPRINT.stem,
            "description": "Train an Ideogram 4 LoRA on a zip of images and captions: model, VAE and CLIP in, LoRA "
            "out. Open it for every other setting, and to watch the run.",
            "category": "Training",
            "aliases": ["train lora", "fine-tune", "lora trainer", "zip"],
            "nodes": [load, size, ids["Ideogram4EncodeDataset"], train],
            "exposed": [
                *([train, name] for name in ("settings", "previews")),
                *([load, name] for name in ("dataset", "default_caption")),
                *([size, name] for name in ("resolution", "custom")),
                *([train, name] for name in ("steps", "learning_rate", "rank", "seed", "resume")),
            ],
        },
    }


def _story_payload(url: str, folder: Path) -> dict[str, Any]:
    """The example with previews on the tiny models, and a dataset of which some images need attention."""
    path = folder / "shapes.zip"
    path.write_bytes(showcase.showcase_zip(pictures.draw_picture, 14))
    workflow = examples.load_ui("train_and_watch")
    prompts = ("a red circle at the left", "a yellow square at the top", "a white triangle in the middle")
    showcase.on_tiny_models(workflow, steps=4000, every=100, prompts=prompts, preview_px=256)
    dataset = next(node for node in workflow["nodes"] if node["type"] == "Ideogram4LoadDataset")
    dataset["widgets_values"][1] = "a shape"  # for the image without a caption of its own
    output = ROOT / "docs" / "images"
    output.mkdir(parents=True, exist_ok=True)
    return {
        "url": url,
        "workflow": workflow,
        "zip": str(path),
        "vueNodes": False,
        "caption": "a black triangle at the bottom, green fading to purple",
        "stopAt": 320,
        "pictures": str(output),
    }


if __name__ == "__main__":
    sys.exit(main())
