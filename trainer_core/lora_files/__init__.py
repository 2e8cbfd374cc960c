"""LoRA files: read every common layout, convert exactly, match against a model, write what all loaders take."""

from .config_json import config_json, save_config
from .export import comfy_state_dict, export_lora
from .keys import TensorInfo
from .match import Match, match_modules
from .metadata import build_metadata
from .parse import ParsedLora, parse_lora
from .read import read_header, read_lora
from .record import TrainingRecord
from .tensor_file import tensor_file
from .weights import LoraWeights
from .write import save_lora

__all__ = [
    "LoraWeights",
    "Match",
    "ParsedLora",
    "TensorInfo",
    "TrainingRecord",
    "build_metadata",
    "comfy_state_dict",
    "config_json",
    "export_lora",
    "match_modules",
    "parse_lora",
    "read_header",
    "read_lora",
    "save_config",
    "save_lora",
    "tensor_file",
]
