"""Noise level law, noising and the loss."""

from __future__ import annotations

import math

import pytest
import torch
from ideogram4_lora_trainer.trainer_core.model import objective


def levels(width: int, height: int, **law: float) -> torch.Tensor:
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    return objective.sigma_from_uniform(u, width=width, height=height, **{"mu": 0.0, "std": 1.5, **law})


def test_quantiles_at_1024_are_the_published_ones() -> None:
    quantiles = torch.quantile(levels(1024, 1024), torch.tensor([0.1, 0.5, 0.9]))
    assert torch.allclose(quantiles, torch.tensor([0.23, 0.67, 0.93]), atol=0.006)


def test_the_law_is_that_of_comfyuis_scheduler() -> None:
    from comfy_extras.nodes_ideogram4 import ideogram4_sigmas

    steps = 48
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    ours = objective.sigma_from_uniform(u, mu=0.3, std=1.75, width=1536, height=1024).flip(0)
    theirs = ideogram4_sigmas(steps, 1536, 1024, 0.3, 1.75)
    assert torch.allclose(ours[:-1], theirs[:-1], atol=1e-6)  # the sampler's last sigma is forced to 0


def test_larger_images_are_noised_more_and_512_is_the_reference() -> None:
    medians = [levels(side, side).median().item() for side in (256, 512, 1024, 2048)]
    assert medians == sorted(medians)
    assert medians[1] == pytest.approx(0.5, abs=1e-3)
    assert levels(2048, 512).median() == levels(1024, 1024).median()


def test_levels_are_clamped_to_the_range_of_the_published_schedule() -> None:
    wide = levels(512, 512, std=50.0).double()
    log_ratio = 2 * torch.log(wide / (1 - wide))
    assert log_ratio.min().item() == pytest.approx(-15, abs=0.01)
    assert log_ratio.max().item() == pytest.approx(18, abs=0.01)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_stratified_draws_fall_one_into_each_stratum_in_random_order(count: int) -> None:
    draws = objective.stratified_uniform(count, torch.Generator().manual_seed(3))
    assert sorted((draws * count).long().tolist()) == list(range(count))
    again = objective.stratified_uniform(count, torch.Generator().manual_seed(3))
    other = objective.stratified_uniform(count, torch.Generator().manual_seed(4))
    assert torch.equal(draws, again)
    assert not torch.equal(draws, other)


def test_noising_agrees_with_comfyuis_flow_sampling() -> None:
    import comfy.model_sampling

    draw = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 128, 2, 2, generator=draw) for _ in range(2))
    sigma = torch.tensor([0.1, 0.5, 0.9])
    flow = comfy.model_sampling.CONST()
    theirs = flow.noise_scaling(sigma, noise, clean, False)
    ours = objective.add_noise(clean, noise, sigma)
    assert torch.allclose(ours, theirs)
    velocity = objective.velocity_target(clean, noise)
    assert torch.allclose(objective.predicted_clean(ours, velocity, sigma), clean, atol=1e-6)
    assert torch.allclose(flow.calculate_denoised(sigma, velocity, ours), clean, atol=1e-6)


def test_loss_is_the_plain_mean_square_in_fp32() -> None:
    velocity = torch.full((2, 128, 1, 1), 3.0, dtype=torch.bfloat16)
    loss = objective.velocity_loss(velocity, torch.tensor([1.0, 5.0]).view(2, 1, 1, 1).expand(2, 128, 1, 1))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [4.0, 4.0]


def test_log_sigma_mean_adds_half_the_log_of_the_area_ratio() -> None:
    assert objective.log_sigma_mean(0.5, 1024, 512) == pytest.approx(0.5 + 0.5 * math.log(2))
