"""Messages for somebody who is elsewhere: where this machine keeps its files is not theirs to know."""

from __future__ import annotations

import os

import folder_paths


def without_paths(text: str) -> str:
    """The text with the folders of this ComfyUI replaced by what they are."""
    folders = {
        folder_paths.get_output_directory(): "output",
        folder_paths.get_input_directory(): "input",
        folder_paths.get_temp_directory(): "temp",
        folder_paths.get_user_directory(): "user",
        folder_paths.models_dir: "models",
        folder_paths.base_path: "ComfyUI",
    }
    for paths, _ in folder_paths.folder_names_and_paths.values():
        folders.update(dict.fromkeys(paths, "models"))
    real = {os.path.realpath(folder): name for folder, name in folders.items()}
    for folder, name in sorted((folders | real).items(), key=lambda pair: -len(pair[0])):
        text = text.replace(folder, name)
    return text
