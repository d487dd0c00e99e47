"""A network of one convolution with the interface of the real one, for fast tests of the runners."""

import torch
from torch import Tensor, nn

from pipeline.model.inception_v4 import Conv
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.runners.folded import FoldedConv, top_k


class TinyNetwork(nn.Module):
    """Stands for `UintNetwork`: one convolution over 9 x 9 places of the image, and a head."""

    def __init__(self, state: dict[str, Tensor], dtype: torch.dtype, num_top: int) -> None:
        super().__init__()
        self.dtype, self.num_top, self.answer_size = dtype, num_top, 2 * num_top + EMBEDDING_SIZE
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features = FoldedConv(Conv(3, EMBEDDING_SIZE, 9), dtype, 1 / 127.5)
        self.last_linear = nn.Linear(EMBEDDING_SIZE, len(state["last_linear.bias"]))
        self.last_linear.load_state_dict({"weight": state["last_linear.weight"], "bias": state["last_linear.bias"]})
        self.requires_grad_(False).eval()

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """uint8 [N, 299, 299, 3] -> float32 [N, 2k + 1536]."""
        x_NCHW = image_NHWC[:, 8::35, 8::35].permute(0, 3, 1, 2).to(self.dtype) - 127.5
        embedding_ND = self.features(x_NCHW.contiguous(memory_format=torch.channels_last)).float().flatten(1)
        prob_NK, label_id_NK = top_k(self.last_linear(embedding_ND).softmax(1), self.num_top)
        return torch.cat((label_id_NK.float(), prob_NK, embedding_ND), 1)


def tiny_state(num_classes: int = 20) -> dict[str, Tensor]:
    """The state dict of a TinyNetwork's head."""
    generator = torch.Generator().manual_seed(0)
    return {"last_linear.weight": torch.randn(num_classes, EMBEDDING_SIZE, generator=generator) / 20,
            "last_linear.bias": torch.randn(num_classes, generator=generator)}
