"""`instantnet.load(path)`: a trained network to use.

    net = instantnet.load("pretrained")
    net.predict(PIL.Image.open("cat.png"), bits=4)         # [("cat", 0.81), ("dog", 0.12), ..]

Shapes: B images, H x W pixels, C classes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instantnet.data.image_sets import plain_view
from instantnet.data.pictures import Unreadable
from instantnet.engine.checkpoint import load_weights
from instantnet.engine.errors import UserError, shown
from instantnet.formats import NetworkFile, read_weights
from instantnet.widths import Bits


class TrainedNetwork:
    """A network in evaluation, with its bit-widths, lowest first, and its class names (none of a format 1 file)."""

    def __init__(self, file: NetworkFile):
        assert file.weights is not None
        self.path, self.data = file.path, file.data
        self.class_names = list(file.data.class_names) if file.data else []
        self.model = file.build()
        load_weights(self.model, file.weights, file.path)
        self.model.eval()

    @property
    def bits(self) -> tuple[Bits, ...]:
        return self.model.precision.bit_widths

    @torch.no_grad()
    def __call__(self, x: Tensor, bits: Bits | None = None) -> Tensor:
        """Logits [B, C] of normalised images x [B, 3, H, W]. bits: one of `self.bits`, None = the highest. Raises
        ValueError where the network does not have it."""
        return self.model(x, num_bits=self.bits[-1] if bits is None else bits)

    @torch.no_grad()
    def predict(self, image: Any, bits: Bits | None = None) -> list[tuple[str, float]]:
        """(class name, probability) of every class, the most probable first. image: a PIL image of any size and mode.

        Raises `UserError` where the file is of format 1, which names no classes; where the image is none, or nothing
        states what is black and white in it; or where the network does not have the bit-width.
        """
        if bits is not None and bits not in list(self.bits):
            raise UserError(f"bits = {shown(bits)}: the network has {', '.join(map(str, self.bits))}")
        probabilities = self(self.normalised(image)[None], bits).softmax(dim=1)[0].tolist()
        return sorted(zip(self.class_names, probabilities, strict=True), key=lambda pair: -pair[1])

    def normalised(self, image: Any) -> Tensor:
        """[3, H, W] of a PIL image: scaled to the network's size as the test images were, minus mean, over std."""
        if self.data is None:
            raise UserError(f"{self.path}: written by an earlier version, so without class names, mean and deviation")
        if not hasattr(image, "getexif"):
            raise UserError(f"image: expected a PIL image, got a {type(image).__name__}")
        try:
            view = plain_view(image, dataset=self.data.name, size=(self.data.height, self.data.width))
        except Unreadable as error:
            raise UserError(f"image: {error}") from error
        pixels = torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8).view(*view.size[::-1], 3)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.data.mean, self.data.std))
        return (pixels.permute(2, 0, 1) / 255 - mean) / std


def load(path: Path | str, network: str | None = None) -> TrainedNetwork:
    """The network of a weights.pt, or of the folder that holds it. Raises `UserError`, one line, where it is none.

    network: "path/to/file.py:function", where such a function made the network that was trained. A file names it, but
    never has it run.
    """
    return TrainedNetwork(read_weights(path, network))
