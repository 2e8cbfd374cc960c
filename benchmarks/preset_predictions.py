"""Write web/presets/predictions.json: what the presets of the train node say about memory on each card.

Usage: python dev.py bench preset_predictions

Nothing is measured: these are the plans that a run would make for the released sizes at batch 1, with captions of 300
tokens, on a card of which 0.9 GiB are taken. docs/memory.md says how the prediction was checked.
"""

from __future__ import annotations

import sys

from support import pack


def main() -> None:
    pack.load_comfyui()
    pack.core("model.memory")
    sys.path.insert(0, str(pack.ROOT / "tests" / "support"))
    import preset_predictions as table

    table.FILE.parent.mkdir(exist_ok=True)
    table.FILE.write_text(table.as_json(), encoding="utf-8")
    print(f"{table.FILE}: {len(table.CARDS_GB)} cards, {len(table.BYTES_PER_WEIGHT)} formats")


if __name__ == "__main__":
    main()
