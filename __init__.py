"""Ideogram 4 LoRA Trainer: registration only."""

# Without a package there is no ComfyUI either: a test runner is collecting the repository.
if __package__:
    from .nodes import Ideogram4TrainerExtension

    WEB_DIRECTORY = "./web"

    async def comfy_entrypoint() -> Ideogram4TrainerExtension:
        return Ideogram4TrainerExtension()
