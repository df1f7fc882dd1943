"""A memory that averages: fading-memory filters over what observations say, and a network that mixes them.

An LSTM can count and compare, but it is a poor calculator: to average over shots it has to carry a
phase to a thousandth of the circle and subtract what was applied. Here the encoder says of each
observation which change is still wanted, and how far it is to be trusted; each filter of a bank takes
it into an average that forgets at a speed of its own (fading-memory filters: N. Morrison, Introduction
to Sequential Smoothing and Prediction, 1969), and what was applied turns all of them back. An average
of angles is the direction of the sum of their vectors, as long as each is to be trusted (K. Mardia,
P. Jupp, Directional Statistics, 2000, section 2.2): a sum that is the same whether it is taken step by
step or over a whole sequence at once.
Which of them is right depends on how the offset moves, which nobody says: every filter predicts the
next observation, and the better it does, the more it weighs (multiple-model estimation: D. Magill,
IEEE Trans. Autom. Control 10, 1965, 434). An LSTM over the same observations and a network correct
the weights.

Everything is learnt but the speeds of forgetting, with the rest of the actor and from the same critic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.recurrent import MemoryState, SequenceMemory
from memrl_ctrl.config import LayersConfig

FINE_RAD = math.radians(0.25)
"""Angle up to which the logarithmic scale is linear."""
LARGEST_LOG = math.log1p(math.pi / FINE_RAD)
LARGEST_MISS_RAD = math.radians(10.0)
"""A prediction that misses by more counts as this: one step of the offset does not weigh for ever."""
FINE_MISS = (FINE_RAD / LARGEST_MISS_RAD) ** 2
MISSES_KEPT = 0.95
"""Share of the earlier misses of a filter that is kept at each step."""
PRIOR_STEPS = 0.5
"""Steps in which every filter missed by `FINE_RAD`, before the first: at first all weigh the same."""
LOG_RANGE, LOG_MIDDLE = 6.0, -10.0
"""Of an observation's weight: how far its logarithm goes to both sides, and around what. A hundred of the
largest weights add up to about 1, so that no digit of a sum is lost."""
LOG_TRUSTED = -6.6
"""Of the weight of an observation from which on its misses count."""
SHORT = 0.3
"""Length of what the encoder gives below which it says hardly anything."""
SHORTEST = 1e-4
"""Length of a sum below which its logarithm says no more."""
CUT_RAD = math.radians(10.0)
"""Distance from pi within which a logarithmic scale goes back to 0: there is no jump at the cut."""


def wrap(angle: Tensor) -> Tensor:
    """Bring angles into -pi to pi, rad."""
    return angle - 2.0 * math.pi * torch.round(angle / (2.0 * math.pi))


def fine(angle: Tensor) -> Tensor:
    """Return angles on a logarithmic scale with their sign, near 1 for large ones, 0 at the cut."""
    size = torch.log1p(angle.abs() / FINE_RAD) / LARGEST_LOG
    return torch.sign(angle) * size * ((math.pi - angle.abs()) / CUT_RAD).clamp(max=1.0)


def _nearly_unit(vector: Tensor) -> Tensor:
    """Return vectors [..., 2] of length 1, but shorter where they hardly point anywhere."""
    return vector * torch.rsqrt(vector.square().sum(dim=-1, keepdim=True) + SHORT**2)


def _any(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 where vectors have a length, 0 where nothing was summed yet."""
    return (x.square() + y.square() > 0.0).to(x.dtype)


def _powers(keeps: Tensor, steps: int) -> Tensor:
    """Return keep^(t - s) for s up to t, else 0 [n, steps, steps]."""
    step = torch.arange(steps, device=keeps.device)
    ages = step.view(-1, 1) - step
    powers = keeps.view(-1, 1, 1) ** ages.clamp(min=0)
    return torch.where(ages >= 0, powers, torch.zeros_like(powers))


def _fading(values: Tensor, keeps: Tensor, before: Tensor) -> Tensor:
    """Sum values with fading memory [time, batch, n].

    Args:
        values: what is added at each step [time, batch, n], or the same to all sums [time, batch, 1].
        keeps: share of each sum that is kept at a step [n], or of all of them [1].
        before: the sums before the first step [batch, n].
    """
    steps = values.shape[0]
    summed = _powers(keeps, steps) @ values.permute(2, 0, 1)
    age = torch.arange(1, steps + 1, device=keeps.device).view(-1, 1, 1)
    return summed.permute(1, 2, 0) + keeps**age * before


class FilterMemory(SequenceMemory):
    """An LSTM and a bank of filters over the whole episode, the present observation included.

    Beside (h, c) of the LSTM it carries, for each filter, its sum of vectors (cosine and sine, towards the
    wanted change) and the misses of its predictions; the weight of these, and what the last
    observation said. `parts` takes the memory [..., n_memory] apart.

    Args:
        n_observation: length of an observation.
        layers: of encoder and LSTM; `current` is empty, as the head sees the encoder's output.
        keeps: share of its sum that each filter keeps at a step.
        half_range_rad: what the unit action 1 means, rad.
    """

    keeps: Tensor

    def __init__(
        self,
        n_observation: int,
        layers: LayersConfig,
        *,
        keeps: tuple[float, ...],
        half_range_rad: float,
    ) -> None:
        # The LSTM also sees by how much two observations differ, and what this one says.
        super().__init__(
            n_observation, 1, layers, actions=True, scale="logarithmic", acts=True, n_beside=2
        )
        n_encoded = self.n_features
        self.says = nn.Linear(n_encoded, 2)
        self.refines = nn.Linear(n_encoded + layers.lstm[-1], 3)
        nn.init.zeros_(self.refines.weight)
        nn.init.zeros_(self.refines.bias)
        self.register_buffer("keeps", torch.tensor(keeps), persistent=False)
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.half_range_rad = half_range_rad
        self.n_filters = len(keeps)
        self.n_memory += 5 * self.n_filters + 2

    @property
    def carried(self) -> dict[str, int]:
        """See `SequenceMemory`."""
        n = self.n_filters
        own = {"filter_cosine": n, "filter_sine": n, "filter_misses": n}
        return {**super().carried, **own, "filter_predictions": 1, "filter_said": 2}

    def forward(
        self, observations: Tensor, previous: Tensor, state: MemoryState | None = None
    ) -> tuple[Tensor, Tensor, MemoryState]:
        """See `SequenceMemory`."""
        if state is None:
            rows = observations.shape[1]
            state = tuple(observations.new_zeros(rows, width) for width in self.carried.values())
        before, bank = state[:-5], state[-5:]
        encoded = self.encoder(observations)
        with torch.autocast(observations.device.type, enabled=False):
            applied = previous.float() * self.half_range_rad
            direction = self.says(encoded.float())
            known = torch.atan2(direction[..., 1:], direction[..., :1]).detach()
            vectors = _nearly_unit(direction).detach()
            earlier = torch.cat((bank[4].unsqueeze(0), vectors[:-1]))
            begun = torch.cat((_any(*bank[:2])[None, :, :1], torch.ones_like(known[1:])))
            moved = wrap(
                known - torch.atan2(earlier[..., 1:], earlier[..., :1] + 1.0 - begun) + applied
            )
            moved = moved * begun
        x = torch.cat((encoded, self.past(previous), fine(moved), fine(known)), dim=-1)
        out, lstm_state = self.lstm(x, before)
        with torch.autocast(observations.device.type, enabled=False):
            # What earlier observations told of the bunch makes this one say more than alone.
            refined = self.refines(torch.cat((out, encoded), dim=-1).float())
            vector = _nearly_unit(direction + refined[..., :2])
            said = torch.atan2(vector[..., 1:], vector[..., :1])
            weight = torch.exp(refined[..., 2:].clamp(-LOG_RANGE, LOG_RANGE) + LOG_MIDDLE)
            averages, bank = self._average(weight * vector, known, applied, bank)
            alone = torch.atan2(direction[..., 1:], direction[..., :1])
        memory = torch.cat((self.behind(out), averages, said, alone), dim=-1)
        return memory, encoded, (*lstm_state, *bank, vectors[-1])

    def _average(
        self, vector: Tensor, known: Tensor, applied: Tensor, bank: MemoryState
    ) -> tuple[Tensor, MemoryState]:
        """Run the bank over a sequence.

        Args:
            vector: towards the change that each observation says is wanted, as long as it is to be trusted
                [time, batch, 2].
            known: the change that each says by itself, rad [time, batch, 1]. The filters are judged by
                it: what has already been refined by earlier observations is no test of a prediction.
            applied: change applied before each of them, rad [time, batch, 1].
            bank: cosine, sine, misses [batch, n_filters], and predictions [batch, 1].

        Returns:
            [time, batch, 5 n_filters]: misses and lengths of the sums on a logarithmic scale, averages
            relative to what the observation says, logarithmic weights, averages; and the bank after the
            last step.
        """
        cosine, sine, misses, predictions = bank[:4]
        # In the frame of the phase before the sequence nothing has to be turned.
        turned = torch.cumsum(applied, dim=0)
        ahead, aside = torch.cos(turned), torch.sin(turned)
        x_now = vector[..., :1] * ahead - vector[..., 1:] * aside
        y_now = vector[..., 1:] * ahead + vector[..., :1] * aside
        x = torch.cat((cosine.unsqueeze(0), _fading(x_now, self.keeps, cosine)))
        y = torch.cat((sine.unsqueeze(0), _fading(y_now, self.keeps, sine)))
        averages, target = torch.atan2(y[1:], x[1:]), torch.atan2(y_now, x_now)
        begun = _any(x[:-1], y[:-1])
        foreseen = torch.atan2(y[:-1], x[:-1] + (1.0 - begun))
        miss = wrap(known + turned - foreseen).detach()
        size = (miss / LARGEST_MISS_RAD).clamp(-1.0, 1.0)
        weight = torch.linalg.vector_norm(vector, dim=-1, keepdim=True).detach()
        count = weight / (weight + math.exp(LOG_TRUSTED))
        kept = self.keeps.new_tensor([MISSES_KEPT])
        misses = _fading(size.square() * begun * count, kept, misses)
        predictions = _fading(begun[..., :1] * count, kept, predictions)
        mean = (misses / FINE_MISS + PRIOR_STEPS) / (predictions + PRIOR_STEPS)
        log_mean = torch.log(mean)
        # Against the best: the weights are the same, and no digit goes into what all have in common.
        behind = log_mean - log_mean.amin(dim=-1, keepdim=True)
        length = torch.sqrt(x[1:].square() + y[1:].square() + SHORTEST**2)
        parts = (
            log_mean / LARGEST_LOG,
            (torch.log(length) - LOG_MIDDLE) / LOG_RANGE,
            fine(wrap(averages - target).detach()),
            -0.5 * torch.exp(self.log_sharpness) * predictions * behind,
            wrap(averages - turned),
        )
        last = (x[-1] * ahead[-1] + y[-1] * aside[-1], y[-1] * ahead[-1] - x[-1] * aside[-1])
        return torch.cat(parts, dim=-1), (*last, misses[-1], predictions[-1])

    def parts(self, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Take a memory [..., n_memory] apart.

        Returns:
            What the head sees [..., n_seen]; logarithmic weights of the filters [..., n_filters]; their
            averages [..., n_filters], rad; what the present observation says, refined by earlier
            ones and by itself [..., 2], rad.
        """
        widths = [self.n_seen, self.n_filters, self.n_filters, 2]
        seen, weights, averages, says = torch.split(memory, widths, dim=-1)
        return seen, weights, averages, says

    @property
    def n_seen(self) -> int:
        """Length of what the head sees of the memory."""
        return self.n_memory - 2 * self.n_filters - 2


def mixed(log_weights: Tensor, averages: Tensor) -> Tensor:
    """Return the direction of the weighted sum of the angles' vectors, rad [..., 1].

    Args:
        log_weights: [..., n].
        averages: rad [..., n].
    """
    share = torch.softmax(log_weights, dim=-1)
    sine = (share * torch.sin(averages)).sum(dim=-1, keepdim=True)
    return torch.atan2(sine, (share * torch.cos(averages)).sum(dim=-1, keepdim=True))
