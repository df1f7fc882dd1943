"""A memory that averages: fading-memory filters over what observations say, and a network that mixes them.

An LSTM can count and compare, but it is a poor calculator: to average over shots it has to carry a
phase to a thousandth of the circle and subtract what was applied. Here the encoder says of each
observation which change is still wanted, and how far it is to be trusted; each filter of a bank takes
it into an average that forgets at a speed of its own (fading-memory filters: N. Morrison, Introduction
to Sequential Smoothing and Prediction, 1969), and what was applied turns all of them back. An average
of angles is the direction of the sum of their vectors, as long as each is to be trusted (K. Mardia,
P. Jupp, Directional Statistics, 2000, section 2.2).
Which of them is right depends on how the offset moves, which nobody says: every filter predicts the
next observation, and the better it does, the more it weighs (multiple-model estimation: D. Magill,
IEEE Trans. Autom. Control 10, 1965, 434). An observation far from what a filter foresaw ends that
filter's past. A network that sees how well each foresaw, and nothing else, corrects the weights. An LSTM
over the same observations says how far each is to be trusted. It also gives an estimate of its own, of all
it has seen, which is mixed as one filter more: how a bunch changed with what was applied tells of a phase
that no single profile shows. It too has to foresee what observations say, or weighs less: in training nearly
every phase is right after some shots, and an LSTM that says so of one that is not would never be moved.

Everything is learnt but the speeds of forgetting and where the past ends: what an observation says, and the
LSTM's estimate, from the likelihood of their own errors, and the weights from the critic. The critic does
not touch the estimates. What it values most is no error at all, and an estimate that may be one or the other
would become the likelier one: after some moves that the phase is right already. Then a phase that is wrong
stays so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from memrl_ctrl.agents.recurrent import MemoryState, SequenceMemory
from memrl_ctrl.config import LayersConfig

FINE_RAD = math.radians(1.0)
"""Angle up to which the logarithmic scale is linear. With a quarter of it the rounding of an observation
came to 5e-5 in the memory, five times what an export may differ by."""
LARGEST_LOG = math.log1p(math.pi / FINE_RAD)
CONTRADICTED, SOFTNESS = 7.0, 0.5
"""Surprise at which half of a sum is kept, and over how much more or less it turns: an observation that is
eight of its spreads away from what a filter foresaw ends that filter's past. Two more, and it is gone."""
MISSES_KEPT = 0.95
"""Share of the earlier misses of a filter that is kept at each step."""
LOG_RANGE, LOG_MIDDLE = 6.0, -10.0
"""Of an observation's weight: how far its logarithm goes to both sides, and around what. A hundred of the
largest weights add up to about 1, so that no digit of a sum is lost."""
SPREAD_DEG = 2.0
"""Spread that an observation of the middle weight says of itself; weights are inverse squares of spreads."""
FREEDOM = 4.0
"""Degrees of freedom of an observation's error, which has longer tails than a normal one (Student's t)."""
SHORT = 0.3
"""Length of what the encoder gives below which it says hardly anything."""
SHORTEST = 1e-4
"""Length of a sum below which its logarithm says no more."""
MOST_BEHIND = 20.0
"""By how much more than the least surprised filter one was surprised: beyond it the head sees it on a
logarithmic scale only."""
FIRST_WEIGHT = -3.0
"""Logarithmic weight of the LSTM's estimate, relative to the best filter's, where learning begins."""
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


def _faded(values: Tensor, before: Tensor) -> Tensor:
    """Return sums behind each step [time, batch, n] that keep `MISSES_KEPT` of themselves.

    Args:
        values: what is added at each step [time, batch, n].
        before: the sums before the first step [batch, n].
    """
    sums = []
    for value in values:
        before = value + MISSES_KEPT * before
        sums.append(before)
    return torch.stack(sums)


class FilterMemory(SequenceMemory):
    """An LSTM and a bank of filters over the whole episode, the present observation included.

    Beside (h, c) of the LSTM it carries, for each filter, its sum of vectors (cosine and sine, towards the
    wanted change) and the misses of its predictions, and those of the LSTM's; the weight of these, what the
    LSTM made of the last observation, and what that said. `parts` takes the memory [..., n_memory] apart.

    Args:
        n_observation: length of an observation.
        layers: of encoder and LSTM; `current` is empty.
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
        # How far this observation is to be trusted; the LSTM's estimate, and how far that is.
        self.trusts = nn.Linear(n_encoded + layers.lstm[-1], 1)
        self.recalls = nn.Linear(n_encoded + layers.lstm[-1], 2)
        self.trusts_recalled = nn.Linear(n_encoded + layers.lstm[-1], 1)
        for layer in (self.trusts, self.trusts_recalled):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.register_buffer("keeps", torch.tensor(keeps), persistent=False)
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.half_range_rad = half_range_rad
        self.n_filters = len(keeps)
        self.n_mixed = self.n_filters + 1
        self.n_seen = 5 * self.n_filters + 4
        """Length of what the head sees of the memory."""
        self.n_memory = self.n_seen + 2 * self.n_mixed + 4

    @property
    def carried(self) -> dict[str, int]:
        """See `SequenceMemory`."""
        n = self.n_filters
        own = {"filter_cosine": n, "filter_sine": n, "filter_misses": self.n_mixed}
        own |= {"filter_predictions": 1, "filter_recalled": 1, "filter_said": 2}
        return {**super().carried, **own}

    def forward(
        self, observations: Tensor, previous: Tensor, state: MemoryState | None = None
    ) -> tuple[Tensor, Tensor, MemoryState]:
        """See `SequenceMemory`."""
        if state is None:
            rows = observations.shape[1]
            state = tuple(observations.new_zeros(rows, width) for width in self.carried.values())
        before, bank = state[:-6], state[-6:]
        encoded = self.encoder(observations)
        whole = self.says.weight.dtype  # as the weights are kept: an angle needs its digits
        with torch.autocast(observations.device.type, enabled=False):
            applied = previous.to(whole) * self.half_range_rad
            direction = self.says(encoded.to(whole))
            said = torch.atan2(direction[..., 1:], direction[..., :1])
            known, latest = said.detach(), _nearly_unit(direction.detach())
            earlier = torch.cat((bank[5].unsqueeze(0), latest[:-1]))
            begun = torch.cat((_any(*bank[:2])[None, :, :1], torch.ones_like(known[1:])))
            moved = wrap(
                known - torch.atan2(earlier[..., 1:], earlier[..., :1] + 1.0 - begun) + applied
            )
            moved = moved * begun
        x = torch.cat((encoded, self.past(previous), fine(moved), fine(known)), dim=-1)
        out, lstm_state = self.lstm(x, before)
        with torch.autocast(observations.device.type, enabled=False):
            everything = torch.cat((out, encoded), dim=-1).to(whole)
            trust, towards, trust_recalled = side_by_side(
                (self.trusts, self.recalls, self.trusts_recalled), everything
            )
            log_weight, log_recalled = bounded(trust), bounded(trust_recalled)
            recalled = torch.atan2(towards[..., 1:], towards[..., :1])
            (seen, weights, averages), bank = self._average(
                latest, log_weight.detach(), applied, recalled.detach(), begun=begun, bank=bank
            )
            parts = (
                seen,
                fine(wrap(recalled.detach() - known)),
                (log_weight.detach() - LOG_MIDDLE) / LOG_RANGE,
                (log_recalled.detach() - LOG_MIDDLE) / LOG_RANGE,
                weights,
                averages,
                recalled,
                said,
                recalled,
                log_weight,
                log_recalled,
            )
        return torch.cat(parts, dim=-1), encoded, (*lstm_state, *bank, latest[-1])

    def _average(
        self,
        vector: Tensor,
        log_weight: Tensor,
        applied: Tensor,
        recalled: Tensor,
        *,
        begun: Tensor,
        bank: MemoryState,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], MemoryState]:
        """Run the bank over a sequence.

        Args:
            vector: towards the change that each observation says is wanted, of length 1 [time, batch, 2].
            log_weight: how far each is to be trusted [time, batch, 1].
            applied: change applied before each of them, rad [time, batch, 1].
            recalled: what the LSTM makes of all of them, rad [time, batch, 1].
            begun: whether anything was seen before each [time, batch, 1].
            bank: cosine and sine [batch, n_filters], misses [batch, n_mixed], predictions and what the LSTM
                made of the last one [batch, 1].

        Returns:
            What the head sees of it [time, batch, 5 n_filters + 1]: misses; on a logarithmic scale misses,
            lengths of the sums, and averages relative to what the observation says, in rad and in its
            spreads; number of predictions. Logarithmic weights of filters and LSTM [time, batch, n_mixed];
            averages [time, batch, n_filters]. The bank after the last step. Only the sharpness of the
            weights learns from it.
        """
        with torch.no_grad():
            # In the frame of the phase before the sequence nothing has to be turned.
            turned = torch.cumsum(applied, dim=0)
            ahead, aside = torch.cos(turned), torch.sin(turned)
            vector = torch.exp(log_weight) * vector
            x_now = vector[..., :1] * ahead - vector[..., 1:] * aside
            y_now = vector[..., 1:] * ahead + vector[..., :1] * aside
            target = torch.atan2(y_now, x_now)
            own = recalled + turned
            foreseen = torch.cat((bank[4].unsqueeze(0), own[:-1]))
            x, y, surprised = self._followed(
                x_now, y_now, target, log_weight, begun=begun, bank=bank
            )
            averages = torch.atan2(y, x)
            by_lstm = begun * surprise(wrap(target - foreseen), log_weight)
            unforeseen = torch.cat((surprised, by_lstm), dim=-1)
            unforeseen = unforeseen - surprised.amin(dim=-1, keepdim=True)
            misses, predictions = _faded(unforeseen, bank[2]), _faded(begun, bank[3])
            of_filters, of_lstm = misses[..., :-1], misses[..., -1:]
            least = of_filters.amin(dim=-1, keepdim=True)
            behind = of_filters - least
            length = torch.sqrt(x.square() + y.square() + SHORTEST**2)
            aside_rad = wrap(averages - target)
            spreads = aside_rad * torch.exp(-log_spread(log_weight))
            seen = (
                behind.clamp(max=MOST_BEHIND) / 5.0,
                torch.log1p(behind),
                (torch.log(length) - LOG_MIDDLE) / LOG_RANGE,
                fine(aside_rad),
                torch.sign(spreads) * torch.log1p(spreads.abs()),
                torch.log1p(predictions) / 3.0,
            )
            # The LSTM may know what no observation says by itself, but not for long against all of them.
            doubted = FIRST_WEIGHT - (of_lstm - least).clamp(min=0.0)
            last = (x[-1] * ahead[-1] + y[-1] * aside[-1], y[-1] * ahead[-1] - x[-1] * aside[-1])
        weights = torch.cat((-torch.exp(self.log_sharpness) * behind, doubted), dim=-1)
        whole = (torch.cat(seen, dim=-1), weights, wrap(averages - turned))
        return whole, (*last, misses[-1], predictions[-1], recalled[-1])

    def _followed(
        self,
        x_now: Tensor,
        y_now: Tensor,
        target: Tensor,
        log_weight: Tensor,
        *,
        begun: Tensor,
        bank: MemoryState,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Follow the bank step by step: what each filter keeps depends on what it foresaw.

        Args:
            x_now, y_now: vector of each observation [time, batch, 1], in the frame of the sums.
            target: its direction, rad [time, batch, 1].
            log_weight: how far it is to be trusted [time, batch, 1].
            begun: whether anything was seen before it [time, batch, 1].
            bank: cosine and sine before the sequence [batch, n_filters], and the rest.

        Returns:
            Sums behind each step, cosine and sine, and by how much each filter was surprised there
            [time, batch, n_filters].
        """
        x, y = bank[:2]
        nothing = 1.0 - begun
        sharpness = torch.exp(-log_spread(log_weight))
        xs, ys, surprised = [], [], []
        for t in range(len(target)):
            miss = wrap(target[t] - torch.atan2(y, x + nothing[t]))
            surprised.append(begun[t] * unlikely((miss * sharpness[t]).square()))
            share = self.keeps * torch.sigmoid((CONTRADICTED - surprised[-1]) / SOFTNESS)
            x, y = torch.addcmul(x_now[t], share, x), torch.addcmul(y_now[t], share, y)
            xs.append(x)
            ys.append(y)
        return torch.stack(xs), torch.stack(ys), torch.stack(surprised)

    def parts(self, memory: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Take a memory [..., n_memory] apart.

        Returns:
            What the head sees [..., n_seen]; logarithmic weights of what is mixed [..., n_mixed]: the
            filters, then the LSTM's estimate; these [..., n_mixed], rad; what the present observation says
            by itself and the LSTM's estimate [..., 2], rad; logarithmic weights of these two [..., 2].
        """
        widths = [self.n_seen, self.n_mixed, self.n_mixed, 2, 2]
        seen, weights, averages, estimates, trusted = torch.split(memory, widths, dim=-1)
        return seen, weights, averages, estimates, trusted


def side_by_side(layers: Sequence[nn.Linear], x: Tensor) -> tuple[Tensor, ...]:
    """Apply layers to the same input, as one product."""
    weight = torch.cat([layer.weight for layer in layers])
    together = nn.functional.linear(x, weight, torch.cat([layer.bias for layer in layers]))
    return torch.split(together, [layer.out_features for layer in layers], dim=-1)


def bounded(trust: Tensor) -> Tensor:
    """Return logarithmic weights of what a layer gives: within `LOG_RANGE` of the middle one."""
    return LOG_MIDDLE + LOG_RANGE * torch.tanh(trust / LOG_RANGE)


def log_spread(log_weight: Tensor) -> Tensor:
    """Return the logarithm of the spread, in rad, that goes with a logarithmic weight."""
    return math.log(math.radians(SPREAD_DEG)) - 0.5 * (log_weight - LOG_MIDDLE)


def surprise(error_rad: Tensor, log_weight: Tensor, least_rad: float = 0.0) -> Tensor:
    """Return how unlikely errors are for what observations say of their spread: -log p, 0 for no error.

    A network that says how wrong it may be learns it from the likelihood of its errors (D. Nix, A. Weigend,
    Proc. ICNN 1994, 55); here that of Student's t, whose tails are those of readings far from the goal.

    Args:
        error_rad: of what they say [...], rad.
        log_weight: of each [...].
        least_rad: what is added to every spread, in squares.
    """
    sharpness = torch.exp(-log_spread(log_weight))
    size = (error_rad * sharpness).square()
    if least_rad > 0.0:
        size = size / (1.0 + (least_rad * sharpness).square())
    return unlikely(size)


def unlikely(size: Tensor) -> Tensor:
    """Return `surprise` of the squares of errors in units of their spreads."""
    return 0.5 * (FREEDOM + 1.0) * torch.log1p(size / FREEDOM)


def mixed(log_weights: Tensor, averages: Tensor) -> Tensor:
    """Return the direction of the weighted sum of the angles' vectors, rad [..., 1].

    Args:
        log_weights: [..., n].
        averages: rad [..., n].
    """
    share = torch.softmax(log_weights, dim=-1)
    sine = (share * torch.sin(averages)).sum(dim=-1, keepdim=True)
    return torch.atan2(sine, (share * torch.cos(averages)).sum(dim=-1, keepdim=True))
