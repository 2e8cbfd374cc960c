"""What to do when an address cannot be used, which depends on what it is for."""

from __future__ import annotations

import dataclasses
from typing import Literal

What = Literal["dataset", "lora", "image", "webhook"]


@dataclasses.dataclass(frozen=True)
class Advice:
    thing: str
    media_type: str
    """Of its data URIs; "" where none is accepted."""
    not_https: str
    with_password: str
    private: str
    by_hand: str
    too_large: str
    data_uri_too_large: str = ""


ADVICE: dict[What, Advice] = {
    "dataset": Advice(
        thing="zip",
        media_type="application/zip",
        not_https="use https, or upload the zip",
        with_password="use a signed URL, or upload the zip",  # noqa: S106 (a sentence)
        private="upload the zip instead",
        by_hand="download it yourself and upload the zip",
        too_large="upload the zip, or split it",
        data_uri_too_large="upload the zip instead",
    ),
    "lora": Advice(
        thing="file",
        media_type="",
        not_https="use https, or put the file into models/loras",
        with_password="use a signed URL, or put the file into models/loras",  # noqa: S106
        private="put the file into models/loras instead",
        by_hand="download it yourself and put it into models/loras",
        too_large="check that it is a LoRA",
    ),
    "image": Advice(
        thing="image",
        media_type="image/png",
        not_https="use https, or send the image as a data URI",
        with_password="use a signed URL, or send the image as a data URI",  # noqa: S106
        private="send the image as a data URI instead",
        by_hand="download it and send it as a data URI",
        too_large="make it smaller",
        data_uri_too_large="make it smaller",
    ),
    "webhook": Advice(
        thing="answer",
        media_type="",
        not_https="use https",
        with_password="put a token into its query",  # noqa: S106
        private="use a public one, or ask the owner of this server to allow it",
        by_hand="ask for the result instead",
        too_large="ask for the result instead",
    ),
}
