"""A zip or folder of images and captions, checked, and turned into pixels and texts of one size. No torch here."""

from ..remote import Network
from .ahead import ReadImage, read_ahead
from .crop import CropBox, crop_box, fit_image
from .dataset import Dataset, Item, caption_for_crop, load_pixels
from .images import decode_image
from .json_caption import check_json_caption
from .listing import Skipped
from .opening import open_dataset, open_url
from .remote import fetch_dataset
from .report import report
from .resolution import PRESETS, Resolution, check_fit, resolve_resolution

__all__ = [
    "PRESETS",
    "CropBox",
    "Dataset",
    "Item",
    "Network",
    "ReadImage",
    "Resolution",
    "Skipped",
    "caption_for_crop",
    "check_fit",
    "check_json_caption",
    "crop_box",
    "decode_image",
    "fetch_dataset",
    "fit_image",
    "load_pixels",
    "open_dataset",
    "open_url",
    "read_ahead",
    "report",
    "resolve_resolution",
]
