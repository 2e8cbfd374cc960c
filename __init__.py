"""Ideogram 4 LoRA Trainer: registration only."""

# Without a package there is no ComfyUI either: a test runner is collecting the repository.
if __package__:
    from server import PromptServer

    from .nodes import Ideogram4TrainerExtension
    from .server import register

    WEB_DIRECTORY = "./web"

    # ComfyUI's nodes can be loaded without its server, for a script or a test.
    if getattr(PromptServer, "instance", None) is not None:
        register(PromptServer.instance.routes, PromptServer.instance.app)

    async def comfy_entrypoint() -> Ideogram4TrainerExtension:
        return Ideogram4TrainerExtension()
