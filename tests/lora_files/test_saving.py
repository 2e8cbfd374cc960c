"""A saved LoRA appears whole or not at all, over nothing, says what it is, and is the same bytes every time."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ideogram4_lora_trainer.trainer_core.config import TrainSettings
from ideogram4_lora_trainer.trainer_core.errors import NonFinite, SaveFailed
from ideogram4_lora_trainer.trainer_core.lora_files import (
    LoraWeights,
    TrainingRecord,
    build_metadata,
    config_json,
    export_lora,
    read_lora,
    save_config,
    save_lora,
)

SIZES = {"attention.qkv": (24, 8), "attention.o": (8, 8), "feed_forward.w1": (20, 8)}


def modules(seed: int = 0) -> dict[str, LoraWeights]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layers.{block}.{layer}": LoraWeights(
            torch.randn(4, width, generator=generator), torch.randn(out, 4, generator=generator), 4.0
        )
        for block in range(2)
        for layer, (out, width) in SIZES.items()
    }


def save(folder: Path, lora: dict[str, LoraWeights] | None = None, **changes: object) -> Path:
    options = {"stem": "style", "layout": "comfy", "metadata": {"format": "pt"}} | changes
    return save_lora(modules() if lora is None else lora, folder=folder, **options)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- the file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("layout", ["comfy", "fal", "diffusers"])
def test_safetensors_reads_what_was_saved(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = save(tmp_path, layout=layout, dtype=dtype, metadata={"b": "ä\n\"'", "a": "1"})
    expected = export_lora(modules(), layout, dtype=dtype)
    loaded = safetensors.torch.load_file(path)
    assert sorted(loaded) == sorted(expected)
    assert all(torch.equal(loaded[key], expected[key]) and loaded[key].dtype == expected[key].dtype for key in expected)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata().items() >= {"b": "ä\n\"'", "a": "1"}.items()
    assert read_lora(path).layout == layout


def test_tensors_lie_as_safetensors_itself_lays_them(tmp_path: Path) -> None:
    ours, theirs = save(tmp_path).read_bytes(), safetensors.torch.save(export_lora(modules(), "comfy"))
    header_bytes = struct.unpack("<Q", ours[:8])[0]
    assert header_bytes % 8 == 0
    data = ours[8 + header_bytes :]
    assert theirs.endswith(data)
    header = json.loads(ours[8 : 8 + header_bytes])
    assert header["__metadata__"]["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()


def test_tensors_start_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(8):
        content = save(tmp_path, metadata={"title": "x" * length}).read_bytes()
        assert struct.unpack("<Q", content[:8])[0] % 8 == 0


def test_equal_loras_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    metadata = {f"key{number}": str(number) for number in range(8)}
    first = save(tmp_path / "a", metadata=metadata)
    second = save(
        tmp_path / "b", dict(reversed(modules().items())), metadata=dict(reversed(metadata.items())), stem="other"
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != save(tmp_path / "c", modules(seed=1), metadata=metadata).read_bytes()


def test_parameters_in_training_can_be_saved(tmp_path: Path) -> None:
    trained = {
        path: LoraWeights(torch.nn.Parameter(lora.down), torch.nn.Parameter(lora.up), 3.0)
        for path, lora in modules().items()
    }
    path = save(tmp_path, trained)
    assert all(not lora.up.requires_grad for lora in read_lora(path).modules.values())
    with torch.inference_mode():
        assert save(tmp_path, modules()).name == "style_2.safetensors"


# ---- contents that must not be saved -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("matrix", ["down", "up"])
def test_non_finite_values_are_refused_by_name(matrix: str, value: float, tmp_path: Path) -> None:
    lora = modules()
    getattr(lora["layers.1.attention.o"], matrix)[1, 2] = value
    for layout, name in (("comfy", "layers.1.attention.o"), ("diffusers", "layers.1.attention.to_out.0")):
        with pytest.raises(NonFinite, match=rf"not saved: .*{name}\.lora_.*NaN or infinite.*earlier checkpoint"):
            save(tmp_path / "sub", lora, layout=layout)
    assert not list(tmp_path.iterdir())


def test_values_that_overflow_only_in_the_files_type_are_refused(tmp_path: Path) -> None:
    lora = modules()
    lora["layers.0.attention.o"].up[0, 0] = 70_000.0
    with pytest.raises(NonFinite, match="float16"):
        save(tmp_path, lora, dtype=torch.float16)
    assert save(tmp_path, lora, dtype=torch.bfloat16).is_file()


@pytest.mark.parametrize(
    ("metadata", "says"), [({"a": 1}, "'a'.* not text"), ({"lora_adapter_metadata": "{}"}, "must not be saved")]
)
def test_metadata_that_misleads_loaders_is_refused(metadata: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(SaveFailed, match=says):
        save(tmp_path, metadata=metadata)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stem", ["", ".", "..", "a/b", "a\\b", "../up", "C:x", "nul\0", "a\nb", "what?", "  . "])
def test_stems_that_are_no_file_names_are_refused(stem: str, tmp_path: Path) -> None:
    with pytest.raises(SaveFailed, match="cannot be a file name"):
        save(tmp_path / "sub", stem=stem)
    assert not list(tmp_path.iterdir())


def test_odd_but_honest_stems(tmp_path: Path) -> None:
    for stem in ("mein Stil", "画风", "a.b", ".hidden", "x" * 200):
        assert save(tmp_path, stem=stem).name == f"{stem}.safetensors"


# ---- names ---------------------------------------------------------------------------------------------------


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_nothing_is_overwritten(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        no_links(monkeypatch)
    folder = tmp_path / "loras" / "style"
    folder.mkdir(parents=True)
    (folder / "style.safetensors").write_bytes(b"precious")
    (folder / "style_2.safetensors").mkdir()
    assert [save(folder).name for _ in range(2)] == ["style_3.safetensors", "style_4.safetensors"]
    assert (folder / "style.safetensors").read_bytes() == b"precious"
    assert files_under(tmp_path) == [f"loras/style/{name}.safetensors" for name in ("style", "style_3", "style_4")], (
        "no temporary files may stay"
    )


@pytest.mark.parametrize("links", [True, False])
def test_savers_at_the_same_moment_get_a_file_each(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        no_links(monkeypatch)
    count = 8
    barrier, paths = threading.Barrier(count), {}

    def run(seed: int) -> None:
        lora = modules(seed)
        barrier.wait()
        paths[seed] = save(tmp_path / "loras", lora, dtype=torch.float32)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths.values())) == count
    for seed, path in paths.items():
        loaded = read_lora(path).modules
        assert all(torch.equal(loaded[key].up, lora.up) for key, lora in modules(seed).items())
    assert len(files_under(tmp_path)) == count


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "loras").mkdir(parents=True)
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "loras").symlink_to(tmp_path / "elsewhere" / "loras", target_is_directory=True)
    assert save(tmp_path / "output" / "loras") == tmp_path / "output" / "loras" / "style.safetensors"
    assert files_under(tmp_path / "elsewhere") == ["loras/style.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="file modes")
def test_the_file_has_the_users_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert save(tmp_path).stat().st_mode == (tmp_path / "usual").stat().st_mode


# ---- failures ------------------------------------------------------------------------------------------------


def fail_with(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = save(tmp_path / "loras").stat().st_size
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))
    assert save(tmp_path / "loras").name == "style_2.safetensors"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size - 1))
    monkeypatch.setattr(os, "fsync", fail_with(AssertionError("nothing should be written")))
    with pytest.raises(SaveFailed, match=f"is full. {size:,} bytes are needed, {size - 1:,} are free. Make room"):
        save(tmp_path / "loras")
    assert len(files_under(tmp_path)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
def test_a_disk_that_fills_while_writing_leaves_nothing(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(SaveFailed, match=r"style\.safetensors was not saved: the disk of .* bytes are needed"):
            save(tmp_path / "loras")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not files_under(tmp_path)


@pytest.mark.parametrize("name", ["fsync", "link and replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), KeyboardInterrupt(), RuntimeError("stop")]
)
def test_a_failure_at_any_moment_leaves_nothing(
    name: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for function in name.split(" and "):
        monkeypatch.setattr(os, function, fail_with(error))
    with pytest.raises(SaveFailed if isinstance(error, OSError) else type(error)):
        save(tmp_path / "loras")
    assert not files_under(tmp_path)


def test_nothing_is_written_outside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be a mount of its own, or all that the user allowed."""
    folder = tmp_path / "output"
    folder.mkdir()
    seen = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append([path for path in tmp_path.iterdir() if path != folder])
        seen.append([path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()])
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    path = save(folder)
    assert seen[:2] == [[], []], "while it is written, the file is neither outside nor visible"
    assert seen[2:] == [[], [path]]


def test_a_disk_that_cannot_sync_folders_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not here")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    assert read_lora(save(tmp_path)).layout == "comfy"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "loras").write_text("a file")
    with pytest.raises(SaveFailed, match=r"was not saved in .*loras.*Check that the folder"):
        save(tmp_path / "loras" / "style")


def test_names_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(SaveFailed, match="too long"):
        save(tmp_path / "loras", stem="x" * 300)
    assert not files_under(tmp_path)


def test_leftovers_of_a_crash_are_removed_once_they_are_old(tmp_path: Path) -> None:
    names = (".ideogram4-lora-partial-old", ".ideogram4-lora-partial-young", ".download", "ideogram4-lora-partial-mine")
    for name, age_h in zip(names, (1.1, 0.9, 25, 25), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.partial").write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age_h * 3600,) * 2)
    save(tmp_path)
    assert files_under(tmp_path) == sorted([*(f"{name}/file.partial" for name in names[1:]), "style.safetensors"])


# ---- what the files say --------------------------------------------------------------------------------------


SETTINGS = TrainSettings(steps=1000, rank=16, learning_rate=5e-5)


RECORD = TrainingRecord(
    settings=SETTINGS,
    trained_steps=700,
    width=1024,
    height=768,
    image_count=12,
    caption_count=9,
    caption_sample="a photo of sks dog / cat",
    default_caption="a dog",
    dataset_fingerprint="ab12",
    base_model="/home/annabelle/models/ideogram4_fp8_scaled.safetensors",
    final_loss=0.1234567,
    versions={"torch": "2.13.0", "comfyui": "0.30.0"},
)


def metadata_of(**changes: object) -> dict[str, str]:
    return build_metadata(dataclasses.replace(RECORD, **changes), title="style")


def config_of(files: dict[str, Path], **changes: object) -> dict:
    return config_json(dataclasses.replace(RECORD, **changes), output_lora_format="comfy + fal", files=files)


def test_metadata_tells_what_browsers_show() -> None:
    metadata = metadata_of()
    expected = {
        "modelspec.architecture": "Ideogram-4/lora",
        "modelspec.title": "style",
        "modelspec.resolution": "1024x768",
        "ss_base_model_version": "ideogram4",
        "ss_sd_model_name": "ideogram4_fp8_scaled.safetensors",
        "ss_network_dim": "16",
        "ss_network_alpha": "16",
        "ss_steps": "700",
        "ss_max_train_steps": "1000",
        "ss_learning_rate": "5e-05",
        "ss_num_train_images": "12",
        "ideogram4_lora_trainer.dataset_fingerprint": "ab12",
        "ideogram4_lora_trainer.caption_sample": "a photo of sks dog / cat",
        "ideogram4_lora_trainer.final_loss": "0.123457",
    }
    assert metadata.items() >= expected.items()
    settings = json.loads(metadata["ideogram4_lora_trainer.settings"])
    assert TrainSettings.from_mapping(settings) == SETTINGS
    assert json.loads(metadata["ideogram4_lora_trainer.versions"]) == {"torch": "2.13.0", "comfyui": "0.30.0"}


def test_metadata_is_text_without_empty_entries() -> None:
    metadata = metadata_of(base_model="", caption_sample="", final_loss=None)
    assert all(isinstance(value, str) and value for value in metadata.values())
    absent = {"modelspec.date", "ss_sd_model_name", "ideogram4_lora_trainer.final_loss"}
    assert not absent & set(metadata)
    assert len(metadata_of(caption_sample="x" * 9999)["ideogram4_lora_trainer.caption_sample"]) == 500


@pytest.mark.parametrize(
    "path", ["/home/annabelle/m.safetensors", "C:\\Users\\annabelle\\m.safetensors", "annabelle/m.safetensors"]
)
def test_no_local_path_leaves_the_machine(path: str, tmp_path: Path) -> None:
    saved = save(tmp_path, metadata=metadata_of(base_model=path))
    config = config_of(base_model=path, files={"comfy": saved})
    header = str(read_lora(saved).metadata)
    for text in (header, json.dumps(config)):
        assert "m.safetensors" in text
        assert "annabelle" not in text
        assert str(tmp_path) not in text


def test_config_has_fals_names_and_ours(tmp_path: Path) -> None:
    config = config_of(files={"comfy": tmp_path / "a.safetensors"})
    fal = {
        "steps": 1000,
        "learning_rate": 5e-5,
        "resolution": "1024x768",
        "default_caption": "a dog",
        "output_lora_format": "comfy + fal",
        "image_count": 12,
        "caption_count": 9,
    }
    assert config.items() >= fal.items()
    assert config["ideogram4_lora_trainer"]["files"] == {"comfy": "a.safetensors"}
    assert config["ideogram4_lora_trainer"]["trained_steps"] == 700
    first, second = (save_config(config, folder=tmp_path / "loras", stem="config") for _ in range(2))
    assert (first.name, second.name) == ("config.json", "config_2.json")
    assert json.loads(first.read_text(encoding="utf-8")) == config
    assert files_under(tmp_path) == ["loras/config.json", "loras/config_2.json"]


def test_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    for value in (float("nan"), {1, 2}):
        with pytest.raises(SaveFailed, match=r"config\.json was not saved"):
            save_config({"final_loss": value}, folder=tmp_path, stem="config")
    assert not list(tmp_path.iterdir())
