"""What a stochastic policy draws actions from: choices, or normal numbers around a mean."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """Actions as unit actions [..., n_action]; see `TaskSpec`."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw."""
        ...

    def mode(self) -> Tensor:
        """Return the most likely action."""
        ...

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the logarithm of the probability (density) [...]."""
        ...

    def entropy(self) -> Tensor:
        """Return the entropy [...]."""
        ...


class Choices:
    """Independent choices; unit actions have a 1 for each one made.

    Args:
        logits: [..., sum of choices].
        choices: how many each has.
        allowed: 1 where a choice may be made [..., sum of choices]; None allows all.
        random: share of equal probabilities, among those allowed, that is mixed in.
    """

    def __init__(
        self,
        logits: Tensor,
        choices: tuple[int, ...],
        allowed: Tensor | None = None,
        *,
        random: float = 0.0,
    ) -> None:
        if allowed is not None:
            logits = logits.masked_fill(allowed == 0, -1e9)
        self._logs = [
            torch.log_softmax(part, dim=-1) for part in torch.split(logits, list(choices), dim=-1)
        ]
        self._choices = choices
        if random:
            equal = torch.ones_like(logits) if allowed is None else allowed
            pairs = zip(self._logs, torch.split(equal, list(choices), dim=-1), strict=True)
            self._logs = [_mixed(logs, part, random) for logs, part in pairs]

    def sample(self, generator: torch.Generator) -> Tensor:
        """Draw by adding Gumbel noise: its largest is at each choice with that one's probability."""
        parts = []
        for logs in self._logs:
            noise = torch.empty_like(logs).exponential_(generator=generator).log_().neg_()
            parts.append(_hot(logs + noise))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def mode(self) -> Tensor:
        """See `Distribution`."""
        return torch.cat([_hot(logs) for logs in self._logs], dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """See `Distribution`."""
        parts = torch.split(action, list(self._choices), dim=-1)
        pairs = zip(self._logs, parts, strict=True)
        return torch.stack([(logs * part).sum(dim=-1) for logs, part in pairs]).sum(dim=0)

    def entropy(self) -> Tensor:
        """See `Distribution`."""
        return torch.stack([-(logs.exp() * logs).sum(dim=-1) for logs in self._logs]).sum(dim=0)


class Gaussian:
    """Normal numbers around a mean, each of its own deviation.

    The environment gets them clipped to [-1, 1]; probabilities are those before clipping.

    Args:
        mean: [..., n_action].
        log_std: [n_action].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self._mean, self._log_std = mean, log_std

    def sample(self, generator: torch.Generator) -> Tensor:
        """See `Distribution`."""
        noise = torch.empty_like(self._mean).normal_(generator=generator)
        return self._mean + self._log_std.exp() * noise

    def mode(self) -> Tensor:
        """See `Distribution`."""
        return self._mean

    def log_prob(self, action: Tensor) -> Tensor:
        """See `Distribution`."""
        scaled = (action - self._mean) * (-self._log_std).exp()
        terms = -0.5 * scaled.square() - self._log_std - 0.5 * math.log(2.0 * math.pi)
        return terms.sum(dim=-1)

    def entropy(self) -> Tensor:
        """See `Distribution`."""
        one = (self._log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum()
        return one.expand(self._mean.shape[:-1])


def _hot(values: Tensor) -> Tensor:
    """Return a 1 at the largest value along the last dimension."""
    place = values.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(values).scatter_(-1, place, 1.0)


def _mixed(logs: Tensor, allowed: Tensor, random: float) -> Tensor:
    """Mix equal probabilities among what is allowed into probabilities; logarithms in and out."""
    equal = allowed / allowed.sum(dim=-1, keepdim=True)
    mixed = (1.0 - random) * logs.exp() + random * equal
    # Clamped first: the logarithm of 0 has no gradient.
    return mixed.clamp(min=torch.finfo(mixed.dtype).tiny).log()
