"""A CUDA device: its matrix rate, our runners against their rivals, the whole job."""

from pipeline.bench.gpu.device import measure

__all__ = ["measure"]
