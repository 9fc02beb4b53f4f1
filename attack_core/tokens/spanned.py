"""One image's patches from the rows of a layer that sees all tokens, such as the first attention's queries and keys.

The gradient of a linear layer's weight is the sum over the tokens of error times input. Where the layer has more inputs
than there are tokens, and the errors are independent, its rows span exactly the inputs of all tokens (Dimitrov et al.
2024, SPEAR, arXiv:2403.03945; Petrov et al. 2024, DAGER, arXiv:2405.15586, who test words against that span). In front
of the first attention a token is the norm of a linear function of its own patch. A norm only divides it by an unknown
number. So that function has to lie in a known space: D - T linear equations for each patch, less one where something is
added behind the division. They ask for no error, no label and no gradient of the embedding or of positions, so they
hold where clients train the attention and nothing else.

The errors of tokens are nearly alike at initial weights. So the last singular values that the tokens cause lie a few
times above what float32 rounds, and a token's input is known up to what rounding, or known noise, turns of their
directions. That counts as noise of the equations, against which a prior weighs: pictures are smooth.

The algebra runs in float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_core.base.certificate import Certificate, least_psnr, undetermined
from attack_core.base.conjugate_gradients import solve_definite
from attack_core.tokens.equations import TOKEN_LIMITS, Solution, TokenLimits
from attack_core.tokens.spanning_layer import SpanningLayer
from fl_core.base.decibels import TINY
from fl_core.base.device import exact
from fl_core.base.errors import InputError
from fl_core.base.types import ModelState, Tensors

_PURPOSE = "solving for a transformer's patches"


@dataclass(frozen=True, kw_only=True)
class SpanLimits:
    """Which directions belong to the span, and when the steps end."""

    above: float = 1.5
    """How far a singular value has to be above noise, a factor.

    On three CIFAR-10 pictures of the train split the last of the tokens' was 2.6 to 9 times the first of rounding's.
    """
    counts: float = 0.01
    """What share of the noise of the equations is set against the prior.

    All tokens' equations are off by the same turns of the span, which hardly reach the directions that the equations
    say least of. On five CIFAR-10 pictures of the train split all of it gave 32 to 47 dB, a tenth 47 to 56 and a
    hundredth 49 to 57; with noise of 1e-5 to 1e-2 of the gradient's norm a hundredth gave 1 to 4 dB more than a tenth.
    """
    turns: int = 3
    """How often the equations are solved: how noisy each token's are shows in what was found for it before."""
    together: int = 16
    """Pictures that go through the first layer at a time; memory alone depends on it."""


SPAN_LIMITS = SpanLimits()
"""The limits in force."""


@dataclass(frozen=True, kw_only=True)
class _Span:
    """The directions that a layer's rows span: `inside` (R, D), `outside` (D - R, D), orthonormal.

    `turned` (R,) is by how much noise turns each of `inside` towards each of `outside`, as a standard deviation; R of
    `tokens` directions stand out from it.
    """

    inside: Tensor
    outside: Tensor
    turned: Tensor
    tokens: int

    @classmethod
    def of(cls, rows: Tensor, tokens: int, sigma: float, limits: SpanLimits) -> _Span:
        """Of a gradient (O, D) that has noise of the standard deviation `sigma` besides what rounding left."""
        _, values, right = torch.linalg.svd(rows, full_matrices=True)
        # The largest singular value of noise of this size and shape (Marchenko and Pastur 1967).
        edge = math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1])
        floor = max(float(values[tokens]), sigma * edge, TINY)
        rank = int((values[:tokens] > limits.above * floor).sum())
        if rank == 0:
            raise InputError(f"none of {tokens} tokens' directions stands out from noise")
        return cls(
            inside=right[:rank],
            outside=right[rank:],
            turned=floor / edge / values[:rank],
            tokens=tokens,
        )

    def noise(self, inputs: Tensor) -> Tensor:
        """The variance (T,) of one equation of each token, of which `inputs` (T, D) is an estimate."""
        along = (inputs @ self.inside.mT).square()
        turned = along @ self.turned.square()
        # A direction that drowned holds what the last one that did not holds, and is one of those outside.
        lost = (self.tokens - len(self.inside)) / len(self.outside)
        return turned + lost * along[:, -1:].mean(1) + TINY


def solve_spanned(
    layer: SpanningLayer,
    model: nn.Module,
    state: ModelState,
    gradients: Tensors,
    mean: Tensor,
    *,
    sigma: float = 0.0,
    limits: SpanLimits = SPAN_LIMITS,
    prior: TokenLimits = TOKEN_LIMITS,
) -> Solution:
    """The picture (C, H, W) whose tokens at `layer` lie in the span of its gradient's rows.

    `mean` (C, H, W) is what is expected without a signal, and `sigma` the standard deviation of known noise. Raises
    `InputError` where no direction stands out from noise.
    """
    rows = exact(gradients[layer.weight].flatten(1), _PURPOSE)
    if layer.bias is not None:
        rows = torch.cat([rows, exact(gradients[layer.bias], _PURPOSE)[:, None]], 1)
    span = _Span.of(rows, layer.tokens, sigma, limits)
    picture = centre = exact(mean, _PURPOSE)
    tokens = _Tokens.of(layer, model, state, centre.shape, limits)
    equations, noise = tokens.equations(span), tokens.noise(span, centre)
    for _ in range(limits.turns):
        picture = equations.solve(centre, limits.counts * noise, prior)
        noise = tokens.noise(span, picture)
    residual = float(equations.missed(picture).norm() / tokens.at(picture).norm().clamp_min(TINY))
    return Solution(
        picture=picture.float(),
        residual=residual,
        determined=len(span.inside),
        certificate=equations.certificate(
            picture, noise, residual, prior, whole=len(span.inside) == span.tokens
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Tokens in front of the norm: `constant` (T, D) plus `slopes` (T, I, D) times the pixels in `pixels` (T, I).

    The layer sees `scale` (D,) times a token, less its mean where `centred`, divided by its length, plus `shift` (D,);
    without `normed`, the token itself. With `biased` a 1 stands beside it.
    """

    pixels: Tensor
    constant: Tensor
    slopes: Tensor
    scale: Tensor
    shift: Tensor
    centred: bool
    normed: bool
    biased: bool

    @classmethod
    def of(
        cls, layer: SpanningLayer, model: nn.Module, state: ModelState, shape: torch.Size, limits: SpanLimits
    ) -> _Tokens:
        """Those of a network, from one picture of `shape` for each number of a patch."""
        pixels, values = layer.layout.pixels.cpu(), _in_float64(state)
        norm = None if layer.norm is None else model.get_submodule(layer.norm)
        pictures = torch.zeros((pixels.shape[1] + 1, math.prod(shape)), dtype=torch.float64)
        for number in range(pixels.shape[1]):
            pictures[number + 1, pixels[:, number]] = 1.0
        with torch.no_grad():
            seen = torch.cat(
                [
                    layer.before_norm(model, values, part.view(-1, *shape))
                    for part in pictures.split(limits.together)
                ]
            )
        given = {**values.parameters, **values.buffers}
        one = torch.ones(seen.shape[-1], dtype=seen.dtype)
        return cls(
            pixels=pixels,
            constant=seen[0],
            slopes=(seen[1:] - seen[0]).transpose(0, 1),
            scale=given.get(f"{layer.norm}.weight", one),
            shift=given.get(f"{layer.norm}.bias", torch.zeros_like(one)),
            centred=isinstance(norm, nn.LayerNorm),
            normed=norm is not None,
            biased=layer.bias is not None,
        )

    def equations(self, span: _Span) -> _Equations:
        """What the span says of each patch: linear equations."""
        outside, inputs = span.outside, self.constant.shape[1]
        known = outside[:, :inputs]
        added = outside[:, inputs:].sum(1)
        if self.normed:
            # What is added behind the division enters with an unknown factor: one equation less.
            added = added + known @ self.shift
            if float(added.norm()) > TINY:
                known = torch.linalg.svd(added[None]).Vh[1:] @ known
            added = torch.zeros(len(known), dtype=known.dtype)
        return _Equations(
            pixels=self.pixels,
            slopes=(self._raw(self.slopes) @ known.mT).mT,
            constant=self._raw(self.constant) @ known.mT + added,
        )

    def at(self, picture: Tensor) -> Tensor:
        """What the norm divides (T, D), of `picture` (C, H, W)."""
        return self._raw(self._before_norm(picture))

    def noise(self, span: _Span, picture: Tensor) -> Tensor:
        """The variance (T,) of one equation of each token, where `picture` (C, H, W) is nearly the right one."""
        tokens = self._before_norm(picture)
        length = self._lengths(tokens)
        inputs = self._raw(tokens) / length[:, None] + self.shift
        if self.biased:
            inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        return span.noise(inputs) * length.square()

    def _before_norm(self, picture: Tensor) -> Tensor:
        patches = picture.reshape(-1)[self.pixels]
        return self.constant + (patches[:, None] @ self.slopes)[:, 0]

    def _lengths(self, tokens: Tensor) -> Tensor:
        """What the norm divides each token (T,) by."""
        if not self.normed:
            return tokens.new_ones(len(tokens))
        return self._centred(tokens).square().mean(1).sqrt().clamp_min(TINY)

    def _raw(self, tokens: Tensor) -> Tensor:
        return self._centred(tokens) * self.scale if self.normed else tokens

    def _centred(self, tokens: Tensor) -> Tensor:
        return tokens - tokens.mean(-1, keepdim=True) if self.centred else tokens


@dataclass(frozen=True, kw_only=True)
class _Equations:
    """For each patch (I,): `slopes` (T, E, I) times its pixels is -`constant` (T, E)."""

    pixels: Tensor
    slopes: Tensor
    constant: Tensor

    def solve(self, centre: Tensor, noise: Tensor, prior: TokenLimits) -> Tensor:
        """The picture (C, H, W) that fits best, where `noise` (T,) is weighed against the prior around `centre`."""
        weighted = self.slopes.mT / noise[:, None, None]
        squares = weighted @ self.slopes
        missed = self.missed(centre)
        # In coordinates in which the equations, and the most that the prior says, are the unit matrix.
        factor = torch.linalg.cholesky(
            squares + prior.most * torch.eye(squares.shape[-1], dtype=squares.dtype)
        )

        def lower(part: Tensor) -> Tensor:
            found: Tensor = torch.linalg.solve_triangular(factor, part[..., None], upper=False)[..., 0]
            return found

        def upper(part: Tensor) -> Tensor:
            found: Tensor = torch.linalg.solve_triangular(factor.mT, part[..., None], upper=True)[..., 0]
            return found

        def whitened(part: Tensor) -> Tensor:
            patches = upper(part)
            smooth = prior.prior(self._shown(patches, centre)).reshape(-1)[self.pixels]
            return lower((squares @ patches[..., None])[..., 0] + smooth)

        found = solve_definite(
            whitened,
            lower(-(weighted @ missed[..., None])[..., 0]),
            turns=prior.most_turns,
            converged=prior.converged,
        )
        return centre + self._shown(upper(found), centre)

    def certificate(
        self, picture: Tensor, noise: Tensor, residual: float, prior: TokenLimits, *, whole: bool
    ) -> Certificate:
        """What they say of how well they determine `picture`; `whole` where the span holds all tokens."""
        count, equations, width = self.slopes.shape
        unknowns = picture.numel()
        if not whole or equations < width or count * width < unknowns:
            return undetermined(unknowns, min(equations, width) * count, residual, "everywhere")
        sizes = torch.linalg.svdvals(self.slopes)
        least = sizes[:, -1]
        if not float(least.min()) > prior.rounding * float(sizes.max()):
            told = int((sizes > prior.rounding * sizes.max()).sum())
            return undetermined(unknowns, told, residual, "everywhere")
        # All that is wrong with a patch's equations, as if it lay in the direction that is amplified most.
        wrong = torch.maximum(equations * noise, self.missed(picture).square().sum(1))
        return Certificate(
            unknowns=unknowns,
            rank=unknowns,
            condition=float(sizes.max() / least.min()),
            residual=residual,
            psnr=least_psnr(float((wrong / least.square()).sum().sqrt()), unknowns),
            reach="everywhere",
        )

    def missed(self, picture: Tensor) -> Tensor:
        """What `picture` (C, H, W) leaves of them, (T, E)."""
        patches = picture.reshape(-1)[self.pixels]
        return (self.slopes @ patches[..., None])[..., 0] + self.constant

    def _shown(self, patches: Tensor, like: Tensor) -> Tensor:
        """The picture of `patches` (T, I), 0 elsewhere."""
        shown = torch.zeros_like(like).reshape(-1)
        shown[self.pixels] = patches
        return shown.view_as(like)


def _in_float64(state: ModelState) -> ModelState:
    """The same values in float64 on the CPU; counters stay integers."""

    def wider(value: Tensor) -> Tensor:
        return exact(value, _PURPOSE) if value.is_floating_point() else value.cpu()

    return ModelState(
        parameters={name: wider(value) for name, value in state.parameters.items()},
        buffers={name: wider(value) for name, value in state.buffers.items()},
    )
