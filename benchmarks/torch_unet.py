"""A model folder in, the same network written by hand in plain PyTorch out: the rival of ours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from coseis.card import ModelCard
from coseis.model import load_model


class TorchUnet(nn.Module):
    """The U-Net of a card as a PyTorch user writes it: (window, band, y, x) to probability, float32."""

    def __init__(self, card: ModelCard) -> None:
        """Random weights; `load_torch_unet` sets those of a model."""
        super().__init__()
        self.padding = card.padding
        filters = [card.base_filters << level for level in range(card.levels)]
        self.down = nn.ModuleList(
            self._double_convolution(before, after)
            for before, after in zip([card.channels, *filters[:-1]], filters, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * after, after, 2, stride=2) for after in reversed(filters[:-1])
        )
        self.merge = nn.ModuleList(
            self._double_convolution(2 * after, after) for after in reversed(filters[:-1])
        )
        self.several = len(card.classes) > 1
        self.logits = nn.Conv2d(filters[0], len(card.classes) + self.several, 1)

    def _double_convolution(self, before: int, after: int) -> nn.Sequential:
        border = 1 if self.padding == "same" else 0
        return nn.Sequential(
            nn.Conv2d(before, after, 3, padding=border),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=border),
            nn.ReLU(inplace=True),
        )

    def forward(self, tensor: Tensor) -> Tensor:
        """Probability, (window, channel, y, x); with several classes background first."""
        skips: list[Tensor] = []
        for level, convolutions in enumerate(self.down):
            tensor = convolutions(F.max_pool2d(tensor, 2) if level else tensor)
            skips.append(tensor)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            tensor = up(tensor)
            cut = (skip.shape[-1] - tensor.shape[-1]) // 2
            if cut:
                skip = skip[..., cut:-cut, cut:-cut]
            tensor = merge(torch.cat([skip, tensor], dim=1))
        logits = self.logits(tensor).float()
        return logits.softmax(dim=1) if self.several else logits.sigmoid()


def load_torch_unet(folder: str | Path) -> TorchUnet:
    """The model's network with its weights, in PyTorch's best layout for convolutions, channels_last."""
    model = load_model(folder)
    card = model.card
    network = TorchUnet(card)
    names = [f"down{level}" for level in range(1, card.levels + 1)]
    modules: dict[str, nn.Module] = {"logits": network.logits}
    for name, convolutions in zip(names, network.down, strict=True):
        modules |= {f"{name}_conv1": convolutions[0], f"{name}_conv2": convolutions[2]}
    for level, up, merge in zip(range(card.levels - 1, 0, -1), network.up, network.merge, strict=True):
        modules |= {f"up{level}": up, f"up{level}_conv1": merge[0], f"up{level}_conv2": merge[2]}
    with h5py.File(model.path / "weights.h5") as file, torch.no_grad():
        for name, module in modules.items():
            kernel = np.asarray(file[f"{name}/kernel"], dtype=np.float32)
            # Keras: (y, x, in, out), transposed (y, x, out, in). Torch: (out, in, y, x), (in, out, y, x).
            module.weight.copy_(torch.from_numpy(kernel).permute(3, 2, 0, 1))
            module.bias.copy_(torch.from_numpy(np.asarray(file[f"{name}/bias"], dtype=np.float32)))
    return network.eval().to(memory_format=torch.channels_last)
