"""Train on a small drawn dataset through a real ComfyUI server, and load what comes out everywhere.

Run by `python dev.py demo`. Ends with one JSON line: the files, the steps, the loss and what each loader said.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "oracles")]

import host  # noqa: E402 - these two are found through the line above
import workflows  # noqa: E402
from pictures import draw_picture  # noqa: E402

PICTURES = 4
TINY_RUN = {"steps": 120, "rank": 32, "learning_rate": 4e-3}
REAL_RUN = {"steps": 100, "rank": 16, "learning_rate": 1e-4}


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="ideogram4-demo-", ignore_cleanup_errors=True) as folder:
        base = ROOT / ".dev" / "demo"
        host.install_packs(base, tiny=options.model is None)
        port = host.free_port()
        command = host.server_command(
            Path(sys.executable), options.comfyui, port=port, base=base, models=options.models, cpu=options.cpu
        )
        print("Starting ComfyUI ...", flush=True)
        with host.running_server(command, port=port, log=Path(folder) / "server.log") as client:
            result = run(client, base, options)
    print(json.dumps(result))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True, help="the models folder")
    parser.add_argument("--model", help="a real Ideogram 4 file instead of the tiny one")
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


def run(client: host.Client, base: Path, options: argparse.Namespace) -> dict[str, Any]:
    model = options.model
    size = 64 if model is None else 512
    client.upload("demo.zip", drawn_zip(size))
    graph = workflows.load("train_from_zip", size=size, dataset="demo.zip")
    workflows.node(graph, "Ideogram4TrainLoRA").update(TINY_RUN if model is None else REAL_RUN)
    workflows.node(graph, "Ideogram4SaveLoRA")["filename_prefix"] = "loras/demo"
    # The loss of every step comes back as text, so that the first and the last can be shown here.
    graph["losses"] = {
        "class_type": "PreviewAny",
        "inputs": {"source": [workflows.node_id(graph, "Ideogram4TrainLoRA"), 1]},
    }
    if model is not None:
        use_real_files(graph, model)
    print(f"Training {workflows.node(graph, 'Ideogram4TrainLoRA')['steps']} steps ...", flush=True)
    outputs = client.run(graph, timeout_s=3600)

    saved = outputs[workflows.node_id(graph, "Ideogram4SaveLoRA")]["files"]
    comfy, fal, config = (base / "output" / file["subfolder"] / file["filename"] for file in saved)
    losses = json.loads(outputs["losses"]["text"][0])["loss"]
    tenth = max(1, len(losses) // 10)
    print("Loading the files ...", flush=True)
    return {
        "comfy": str(comfy),
        "fal": str(fal),
        "config": str(config),
        "steps": len(losses),
        "first_smoothed_loss": round(sum(losses[:tenth]) / tenth, 4),
        "last_smoothed_loss": round(sum(losses[-tenth:]) / tenth, 4),
        "loaders": loaders(client, options, comfy, fal),
    }


def drawn_zip(size: int) -> bytes:
    """Pictures that the tiny base has not been taught, with their captions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(PICTURES):
            image, caption = draw_picture(1000 + index, size, size)
            encoded = io.BytesIO()
            image.save(encoded, "PNG")
            archive.writestr(f"{index:02}.png", encoded.getvalue())
            archive.writestr(f"{index:02}.txt", caption)
    return buffer.getvalue()


def use_real_files(graph: workflows.Graph, model: str) -> None:
    """The user's own model file, and the names under which the others are released."""
    for node in graph.values():
        inputs = node["inputs"]
        match node["class_type"]:
            case "UNETLoader":
                inputs["unet_name"] = model
            case "CLIPLoader":
                inputs["clip_name"] = "qwen3vl_8b_fp8_scaled.safetensors"
            case "VAELoader":
                inputs["vae_name"] = "flux2-vae.safetensors"


def loaders(client: host.Client, options: argparse.Namespace, comfy: Path, fal: Path) -> dict[str, str]:
    """What core's loader, ours and diffusers say to the files; anything but success ends the demo with an error."""
    said = {}
    for name, file, class_type in (
        ("core LoraLoaderModelOnly", comfy, "LoraLoaderModelOnly"),
        ("Ideogram4LoadLoRA", comfy, "Ideogram4LoadLoRA"),
        ("Ideogram4LoadLoRA (fal)", fal, "Ideogram4LoadLoRA"),
    ):
        graph = {
            "model": {
                "class_type": "UNETLoader",
                "inputs": {"unet_name": options.model or "ideogram4_tiny_bf16.safetensors", "weight_dtype": "default"},
            },
            "lora": lora_node(class_type, file),
            "show": {"class_type": "PreviewAny", "inputs": {"source": ["lora", 0]}},
        }
        before = len(client.log_tail(10**9))
        client.run(graph)
        complaints = [line for line in client.log_tail(10**9)[before:].splitlines() if "lora" in line.lower()]
        if complaints:
            raise host.HostError(f"{name}: {complaints}")
        said[name] = "loaded, every key used"
    if importlib.util.find_spec("diffusers") is None:
        said["diffusers"] = "not tried: not installed in this Python"
    elif options.model is None:
        said["diffusers"] = load_in_diffusers(fal, options.models)
    return said


def lora_node(class_type: str, file: Path) -> dict[str, Any]:
    inputs: dict[str, Any] = {"model": ["model", 0], "lora_name": file.name}
    inputs |= {"strength": 1.0, "mode": "auto"} if class_type.startswith("Ideogram4") else {"strength_model": 1.0}
    return {"class_type": class_type, "inputs": inputs}


def load_in_diffusers(file: Path, models: Path) -> str:
    """Load the file with diffusers' own pipeline into the tiny transformer."""
    import diffusers_ideogram4 as oracle
    from safetensors.torch import load_file

    weights = models / "diffusion_models" / "ideogram4_tiny_fp32.safetensors"
    transformer = oracle.load_lora(oracle.tiny_transformer(load_file(weights)), file)
    return f"loaded, {len(oracle.lora_deltas(transformer))} layers adapted"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.HostError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
