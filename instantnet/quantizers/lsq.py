"""LSQ, learned step size quantization (Esser et al. 2020, arXiv 1902.08153): a step per bit-width, trained by the loss.

    q = clamp(round(x / s), -Q_N, Q_P);  x_hat = q * s

    weights, signed inputs    Q_N = 2^(b-1), Q_P = 2^(b-1) - 1
    inputs behind a ReLU      Q_N = 0,       Q_P = 2^b - 1

    d x_hat / d s = round(x / s) - x / s inside -Q_N < x / s < Q_P,  -Q_N below,  Q_P above
    d x_hat / d x = 1 inside, 0 outside

The gradient of s is scaled by 1 / sqrt(N * Q_P), N = the values that share s, of one image for inputs. A step starts at
2 * mean |x| / sqrt(Q_P), of the weights or of the first training batch. From 2 bit on.

Unlike the paper's, which is one per layer, a weight's step is one per output channel, as in other quantizers here (and
in the port zhutmost/lsq-net); channels=None gives the paper's. Steps have no weight decay.
"""

import torch
from torch import Tensor, nn

from instantnet.quantizers.base import BeginsWithABatch, BitWidths, Codes, refuse_float, rows_of
from instantnet.quantizers.integers import codes_on_integers, on_integers
from instantnet.quantizers.learned import SignedInputs, Sized


def first_step(x: Tensor, q_p: Tensor, axis: int | None) -> Tensor:
    """2 * mean |x| / sqrt(q_p), [C] along `axis`, or [1]. Where x is all zero: of the whole tensor, or else 1."""
    mean = x.abs().mean()
    if axis is not None:
        own = x.abs().mean([i for i in range(x.dim()) if i != axis])
        mean = torch.where(own > 0, own, mean)
    step = (2 * mean / q_p.sqrt()).view(-1)
    return torch.where(step > 0, step, torch.ones_like(step))


def with_step(x: Tensor, step: Tensor, q_n: Tensor, q_p: Tensor, images: int) -> Tensor:
    """x_hat with LSQ's gradients. step broadcasts against x; images: over how many the values of x are spread."""
    shared_by = x.numel() / images / max(1, step.numel())
    gradient_scale = (shared_by * q_p).rsqrt()
    return Sized.apply(x, step, -q_n, q_p, gradient_scale, on_integers, step.detach(), -q_n, q_p)


class LSQWeights(BeginsWithABatch):
    """Weights [K, ...]. Parameter: step [bit-widths, K or 1]; buffer: initialised [bit-widths] (bool).

    axis: the output channels' axis of the weight. channels None = one step for the tensor.
    """

    lowest_bits = 2

    def __init__(self, precision: BitWidths, channels: int | None, axis: int = 0):
        super().__init__(precision, channels, axis)
        self.step = nn.Parameter(torch.ones(rows_of(precision), channels or 1))
        self.register_initialised(rows_of(precision))

    def quantize(self, x: Tensor) -> Tensor:
        row = self.precision.index
        if not self.is_initialised(row) and self.records:
            self.step.data[row] = self._first(x.detach())  # .data: other rows may be in use for a backward pass
            self.set_initialised(row, True)
        return with_step(x, self.per_channel(self._step(x), x), *self._ends(x), images=1)

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach()
        q_n, q_p = self._ends(x)
        return codes_on_integers(x, self.per_channel(self._step(x).detach(), x), -q_n, q_p, self.precision.bits)

    def _step(self, x: Tensor) -> Tensor:
        row = self.precision.index
        return self.step[row].abs() if self.is_initialised(row) else self._first(x.detach())

    def _first(self, x: Tensor) -> Tensor:
        return first_step(x, self._ends(x)[1], None if self.channels is None else self.axis)

    def _ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = 2 ** (self.precision.bits - 1)
        return x.new_full((), half), x.new_full((), half - 1)


class LSQInputs(SignedInputs):
    """A layer's input. Parameter: step [bit-widths, C or 1]; buffers: those of `SignedInputs`.

    channels: C for a step per channel (inputs of depth-wise convolutions), None for one.
    """

    lowest_bits = 2

    def __init__(self, precision: BitWidths, channels: int | None = None, axis: int = 1):
        super().__init__(precision, channels, axis)
        self.step = nn.Parameter(torch.ones(rows_of(precision), channels or 1))

    def quantize(self, x: Tensor) -> Tensor:
        x = x.to(self.step.dtype)  # under autocast it comes in bfloat16, which cannot hold the codes of 12 bit
        q_n, q_p = self._ends(x, self.sign_of(x))
        return with_step(x, self.per_channel(self._step(x, q_p), x), q_n, q_p, images=len(x))

    def codes(self, x: Tensor) -> Codes:
        refuse_float(self.precision)
        x = x.detach().to(self.step.dtype)
        q_n, q_p = self._ends(x, self.known_sign_of(x))
        return codes_on_integers(x, self.per_channel(self._step(x, q_p).detach(), x), -q_n, q_p, self.precision.bits)

    @torch.no_grad()
    def begin(self, x: Tensor, row: int) -> None:
        super().begin(x, row)
        _, q_p = self._ends(x, self.signed[row])
        self.step.data[row] = self.agree(self._first(x, q_p))  # .data: other rows may be in use for a backward pass

    def _step(self, x: Tensor, q_p: Tensor) -> Tensor:
        row = self.precision.index
        return self.step[row].abs() if self.is_initialised(row) else self._first(x.detach(), q_p)

    def _first(self, x: Tensor, q_p: Tensor) -> Tensor:
        return first_step(x, q_p, None if self.channels is None else self.axis)

    def _ends(self, x: Tensor, signed: Tensor) -> tuple[Tensor, Tensor]:
        """(Q_N, Q_P)."""
        below = signed * x.new_full((), 2 ** (self.precision.bits - 1))
        return below, x.new_full((), 2**self.precision.bits - 1) - below
