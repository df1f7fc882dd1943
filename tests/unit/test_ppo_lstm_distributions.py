"""PPO-LSTM: choices, masks, random moves and normal actions have the probabilities they say."""

from __future__ import annotations

import torch

from memrl_ctrl.agents.distributions import Choices, Gaussian


def test_a_masked_choice_is_never_made() -> None:
    """What may not be chosen has probability 0, and the others share it all."""
    logits = torch.randn(500, 5)
    allowed = (torch.rand(500, 5) < 0.5).float()
    allowed[:, 2] = 1.0
    policy = Choices(logits, (5,), allowed)
    action = policy.sample(torch.Generator().manual_seed(0))
    assert (action.sum(dim=-1) == 1).all()
    assert ((action * (1 - allowed)).sum(dim=-1) == 0).all()
    each = torch.eye(5).expand(500, 5, 5)
    total = sum(policy.log_prob(each[:, k]).exp() for k in range(5))
    torch.testing.assert_close(total, torch.ones(500))


def test_choices_are_drawn_as_probable_as_they_are() -> None:
    """Of several choices each is drawn with its probability; entropy and log probability add up."""
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 1.0]]).expand(40_000, 5)
    policy = Choices(logits, (3, 2))
    action = policy.sample(torch.Generator().manual_seed(1))
    expected = torch.cat((logits[0, :3].softmax(-1), logits[0, 3:].softmax(-1)))
    torch.testing.assert_close(action.mean(dim=0), expected, atol=0.01, rtol=0)
    entropy = -(expected[:3] * expected[:3].log()).sum() - (expected[3:] * expected[3:].log()).sum()
    torch.testing.assert_close(policy.entropy()[0], entropy)
    torch.testing.assert_close(-policy.log_prob(action).mean(), entropy, atol=0.02, rtol=0)


def test_normal_actions_have_their_density() -> None:
    """Log probability and entropy are torch's."""
    mean, log_std = torch.randn(7, 3), torch.randn(3)
    policy, known = Gaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    action = policy.sample(torch.Generator().manual_seed(2))
    torch.testing.assert_close(policy.log_prob(action), known.log_prob(action).sum(-1))
    torch.testing.assert_close(policy.entropy(), known.entropy().sum(-1))


def test_random_moves_can_belong_to_the_policy() -> None:
    """Mixed in, each choice has (1 - eps) p + eps / n, n those allowed; what is not allowed has none and
    gives no gradient that is not a number; several choices are mixed each for itself."""
    logits = torch.randn(50, 5, requires_grad=True)
    allowed = torch.ones(50, 5)
    allowed[:, 1] = 0.0
    policy = Choices(logits, (3, 2), allowed, random=0.3)
    p = torch.cat(
        [part.softmax(-1) for part in logits.masked_fill(allowed == 0, -1e9).split((3, 2), -1)], -1
    )
    expected = 0.7 * p + 0.3 * torch.tensor([0.5, 0.0, 0.5, 0.5, 0.5])
    eye = torch.eye(5)
    for first, second in ((0, 3), (2, 4)):
        action = (eye[first] + eye[second]).expand(50, 5)
        wanted = expected[:, first] * expected[:, second]
        torch.testing.assert_close(policy.log_prob(action).exp(), wanted)
    (policy.entropy().sum() + policy.log_prob(policy.mode()).sum()).backward()
    assert bool(torch.isfinite(logits.grad).all())  # type: ignore[arg-type]
    drawn = Choices(logits.detach(), (3, 2), allowed, random=0.3).sample(
        torch.Generator().manual_seed(0)
    )
    assert not drawn[:, 1].any()
