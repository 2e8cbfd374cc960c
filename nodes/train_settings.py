"""Node: every training setting beyond the four on the train node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..trainer_core.config import LATENT_STATISTICS, MEMORY_MODES, SCHEDULES, TrainSettings
from .types import SettingsSocket

_DEFAULT = TrainSettings()


class Ideogram4TrainSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Ideogram4TrainSettings",
            display_name="Ideogram 4 Train Settings",
            category="model/training/ideogram 4",
            description="Optional settings of a training run. The defaults are the recommended run.",
            search_aliases=["training options", "optimizer settings", "lora settings"],
            inputs=[
                *_optimiser_inputs(),
                *_noise_inputs(),
                *_network_inputs(),
                *_checkpoint_inputs(),
                *_memory_and_speed_inputs(),
                *_validation_inputs(),
            ],
            outputs=[SettingsSocket.Output(display_name="settings", tooltip="Connect to the train node.")],
        )

    @classmethod
    def execute(cls, **settings: Any) -> io.NodeOutput:
        TrainSettings.from_mapping(settings)
        return io.NodeOutput(settings)


def _optimiser_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "batch_size",
            default=_DEFAULT.batch_size,
            min=1,
            max=64,
            tooltip="Images per forward pass. 1 needs the least memory, and no padding of captions.",
        ),
        io.Int.Input(
            "gradient_accumulation",
            default=_DEFAULT.gradient_accumulation,
            min=1,
            max=1024,
            tooltip="Forward passes per step. Same result as a larger batch, without its memory.",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default=_DEFAULT.schedule,
            tooltip="Learning rate after the warm-up: constant, or half a cosine that ends near zero.",
        ),
        io.Int.Input(
            "warmup_steps",
            default=_DEFAULT.warmup_steps,
            min=0,
            max=40_000,
            tooltip="Steps over which the learning rate rises; at most a tenth of the run is used.",
        ),
        io.Float.Input(
            "weight_decay",
            default=_DEFAULT.weight_decay,
            min=0.0,
            max=1.0,
            step=0.001,
            round=False,
            tooltip="AdamW's pull of the adapter towards zero.",
        ),
        io.Float.Input(
            "max_grad_norm",
            default=_DEFAULT.max_grad_norm,
            min=0.0,
            max=1e6,
            step=0.1,
            round=False,
            tooltip="Gradients are scaled down to this norm. 0 switches clipping off.",
        ),
    ]


def _noise_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "sigma_mu",
            default=_DEFAULT.sigma_mu,
            min=-5.0,
            max=5.0,
            step=0.05,
            round=False,
            tooltip="Shifts training towards more noise (composition) when raised, towards less (detail) when "
            "lowered. The effect of the resolution is added by itself.",
        ),
        io.Float.Input(
            "sigma_std",
            default=_DEFAULT.sigma_std,
            min=0.1,
            max=5.0,
            step=0.05,
            round=False,
            tooltip="Spread of the noise levels. 1.5 is the spread of the model's quality preset.",
        ),
    ]


def _network_inputs() -> list[io.Input]:
    return [
        io.Boolean.Input(
            "train_modulation",
            default=_DEFAULT.train_modulation,
            tooltip="Also adapt the modulation layer of every block: 204 layers instead of 170.",
        ),
        io.Boolean.Input(
            "rank_stabilized",
            default=_DEFAULT.rank_stabilized,
            tooltip="rsLoRA: scale by alpha/sqrt(rank). Needs a lower learning rate; saved losslessly.",
        ),
        io.Boolean.Input(
            "gradient_checkpointing",
            default=_DEFAULT.gradient_checkpointing,
            tooltip="On: recompute as many blocks as memory asks for in the backward pass. Off: keep them all if they "
            "fit.",
        ),
        io.Combo.Input(
            "latent_statistics",
            options=list(LATENT_STATISTICS),
            default=_DEFAULT.latent_statistics,
            tooltip="Normalise latents with the constants Ideogram trained with, or the VAE file's own. "
            "The encode node reports how far apart they are.",
        ),
    ]


def _checkpoint_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "checkpoint_every",
            default=_DEFAULT.checkpoint_every,
            min=0,
            max=40_000,
            optional=True,
            tooltip="Steps between two checkpoints, from which a run can be continued. 0: every ten minutes. "
            "One is always written at the end and on cancel.",
        ),
        io.Int.Input(
            "keep_checkpoints",
            default=_DEFAULT.keep_checkpoints,
            min=1,
            max=1000,
            optional=True,
            tooltip="How many checkpoints of a run stay on disk. Each takes about 1 GB at rank 32.",
        ),
    ]


def _memory_and_speed_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "memory_mode",
            options=list(MEMORY_MODES),
            default=_DEFAULT.memory_mode,
            optional=True,
            tooltip="What lies on the GPU, with the same result: everything (resident), no block inputs and optimizer "
            "moments (offloaded), or only the weights in use (streamed). auto: the first that fits.",
        ),
        io.Boolean.Input(
            "compile_blocks",
            default=_DEFAULT.compile_blocks,
            optional=True,
            advanced=True,
            tooltip="Fuse small operations with torch.compile: faster on a GPU after a minute of preparation. Where "
            "torch.compile does not work, the run says so and goes on without.",
        ),
        io.Boolean.Input(
            "quantized_products",
            default=_DEFAULT.quantized_products,
            optional=True,
            advanced=True,
            tooltip="Multiply in the file's own fp8 or int8 on a GPU that can, as sampling does: faster, with slightly "
            "rounded gradients. Where it does not work, the run says so and multiplies exactly.",
        ),
    ]


def _validation_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "validation_images",
            default=_DEFAULT.validation_images,
            min=0,
            max=1000,
            optional=True,
            tooltip="Images that are not trained on, chosen by the seed, to measure the loss on. When it rises while "
            "that of trained images falls, the run learns by heart; the best checkpoint is kept. A tenth is usual.",
        ),
        io.Int.Input(
            "validation_every",
            default=_DEFAULT.validation_every,
            min=1,
            max=40_000,
            optional=True,
            advanced=True,
            tooltip="Steps between two measurements. One takes ten forward passes for each image held out.",
        ),
    ]
