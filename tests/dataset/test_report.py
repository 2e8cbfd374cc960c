"""The report tells everything a user has to know before training, in text."""

from __future__ import annotations

import json

from dataset_forge import png, zip_of
from ideogram4_lora_trainer.trainer_core.dataset import Dataset, open_dataset, report, resolve_resolution


def box_caption(*boxes: list[int]) -> str:
    elements = [{"type": "obj", "bbox": box, "desc": "x"} for box in boxes]
    return json.dumps({"compositional_deconstruction": {"background": "b", "elements": elements}})


def opened(**captions: object) -> Dataset:
    files = {
        "x/a.png": png(128, 64),
        "x/a.txt": "a caption",
        "y/a.png": png(64, 128),
        "b.png": png(64, 64),
        "b.txt": box_caption([0, 0, 1000, 100], [400, 400, 600, 600]).replace("desc", "description"),
        "c.png": png(256, 64),
        "c.txt": box_caption([0, 0, 1000, 100], [400, 400, 600, 600]),
        "notes.md": "",
        "readme.rtf": "",
        "b_mask.png": "",
        "lonely.txt": "",
    }
    return open_dataset(zip_of(files), **{"name": "set.zip", "default_caption": "d", **captions})


def test_counts_sizes_and_captions() -> None:
    text = report(opened())
    assert text.startswith("set.zip: 4 images\n")
    assert "128x64 (1)" in text and "64x64 (1)" in text
    assert "3 from text files" in text and "1 default caption" in text
    assert "no caption of their own: y/a.png" in text
    assert "4 default caption, forced" in report(opened(force_default_caption=True))


def test_skipped_files_by_reason_and_name() -> None:
    text = report(opened())
    assert "Skipped: 4 files" in text
    line = next(line for line in text.splitlines() if "neither" in line)
    assert line.endswith("notes.md, readme.rtf")
    assert "mask (its name ends in _mask): b_mask.png" in text
    assert "lonely.txt" in text


def test_warnings() -> None:
    assert "Warning: Files in different folders share a name" in report(opened())


def test_json_findings_name_the_file_and_what_is_off() -> None:
    text = report(opened())
    assert "JSON captions: 2, of which 1 deviate" in text
    line = next(line for line in text.splitlines() if line.startswith("  b.png"))
    assert "description" in line and "lacks desc" in line
    assert "JSON" not in report(open_dataset(zip_of({"a.png": png()}), default_caption="x"))


def test_resolution_and_why_and_what_the_crop_does() -> None:
    dataset = opened()
    text = report(dataset, resolution=resolve_resolution(dataset, "auto"))
    assert "Resolution: 64x64 (auto: the smallest width is 64" in text
    assert "keeps 25% of c.png" in text
    assert "moves 1 box and removes 1 element" in text
    assert "too small" not in text
    text = report(dataset, resolution=resolve_resolution(dataset, "128x64"))
    assert "too small, and images are never enlarged: b.png (64x64), y/a.png (64x128)" in text
    assert "beyond 6:1" not in text
    assert "beyond 6:1" in report(dataset, resolution=resolve_resolution(dataset, "256x32"))


def test_steps_per_image() -> None:
    dataset = opened()
    assert "100 steps, so each image is seen 25 times" in report(dataset, steps=100)
    assert "100 steps of 6 images, so each image is seen 150 times" in report(dataset, steps=100, items_per_step=6)
    assert "1 step, so each image is seen 0.25 times" in report(dataset, steps=1)
    assert "not be seen" in report(dataset, steps=1) and "not be seen" not in report(dataset, steps=4)
    assert "Steps" not in report(dataset)


def test_a_report_on_many_files_stays_readable() -> None:
    files = {f"{index}.gif": b"" for index in range(1000)}
    files |= {f"{index}.png": png(32, 32 + index) for index in range(30)}
    text = report(open_dataset(zip_of(files), default_caption="x"))
    assert "980 more (1000 in all)" in text and len(text) < 2000
    assert "30 different, widths 32 to 32, heights 32 to 61" in text
