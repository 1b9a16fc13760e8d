"""Any recognition network in an ONNX file as an encoder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.models.encoders.onnx_network import LARGEST, OnnxSession, inspect_graph, read_graph

_COLORS = ("rgb", "bgr")


class OnnxEncoder(nn.Module):
    """A recognition network in an ONNX file, frozen, run by onnxruntime on the CPU.

    The file is a part of the model: `content` is a buffer of bytes in the state dict, so a saved model or an index
    needs no other file. It is read with onnx and run by nothing but onnxruntime; files with external weights, loops or
    branches are refused. Images come from any device through NumPy, and features return to it; autocast does not
    change them. The network cannot be trained, and its gradient is not computed. Use `Preprocess` with mean=(0, 0, 0)
    and std=(1, 1, 1): this class normalizes images itself.

    Args:
        weights: path of the file; None if a state dict is loaded afterwards, which needs `n_bytes` and `dim`.
        size: side of the images for a network that accepts any; None takes that of the graph, or 112.
        color: order of the colors that the network expects, "rgb" or "bgr".
        mean: subtracted from values in 0..255, one number or one for each channel in the network's order. None is 0 if
            the graph begins by normalizing its input, and otherwise 127.5.
        std: divisor of the values after that. None is 1 if the graph normalizes, and otherwise 127.5.
        n_bytes: size of `content`, taken from the file. Saved with the model.
        dim: length of the features, taken from a run of the network. Saved with the model.

    Raises:
        UserError: if an argument is wrong, a package or the file is missing, or the file is another one.

    Examples:
        >>> OnnxEncoder("network.onnx")(torch.zeros(2, 3, 112, 112)).shape  # doctest: +SKIP
        torch.Size([2, 512])
    """

    def __init__(
        self,
        weights: str | None = None,
        size: int | None = None,
        color: str = "rgb",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        n_bytes: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        if color not in _COLORS:
            raise UserError(f"color={color}: must be one of {', '.join(_COLORS)}")
        self.size, self.color, self.mean, self.std = size, color, _per_channel("mean", mean), _per_channel("std", std)
        if self.std is not None and not self.std.all():
            raise UserError("std must not contain 0")
        self._session: OnnxSession | None = None
        if weights is None:
            if not (type(n_bytes) is int and 0 < n_bytes <= LARGEST and type(dim) is int and dim > 0):
                raise UserError("weights=null: OnnxEncoder needs the path of an ONNX file, it has no random weights")
            self.dim = dim
            self.register_buffer("content", torch.zeros(n_bytes, dtype=torch.uint8))
        else:
            graph = read_graph(weights)
            try:
                self._session = OnnxSession(graph, size)
            except UserError as error:
                raise UserError(f"{weights}: {error}") from error
            self.dim = self._session.dim
            content = np.frombuffer(graph.content, np.uint8).copy()
            self.register_buffer("content", torch.from_numpy(content))
        self.content: Tensor
        # `VideoHasher` saves them in its configuration, to build this module without the file.
        self.arguments_from_weights = {"n_bytes": len(self.content), "dim": self.dim}

    @property
    def session(self) -> OnnxSession:
        """The network, read from `content` when it is first needed."""
        if self._session is None:
            found = OnnxSession(inspect_graph(self.content.cpu().numpy().tobytes()), self.size)
            if found.dim != self.dim:
                raise UserError(f"the ONNX network has {found.dim} features, not {self.dim}")
            self._session = found
        return self._session

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, side, side) in 0..1, RGB.

        Returns:
            (B, dim) float32 features on the images' device, without a gradient.

        Raises:
            UserError: if the images have another size than the network needs.
        """
        session = self.session
        if images.shape[-2:] != (session.side, session.side):
            size = " x ".join(map(str, images.shape[-2:]))
            raise UserError(
                f"the ONNX network needs images of {session.side} x {session.side} pixels, not {size}: set data.size "
                f"and preprocess.size to {session.side}"
            )
        values = 255 * images.detach().float().cpu().numpy()
        if self.color == "bgr":
            values = values[:, ::-1]
        usual = (0.0, 1.0) if session.graph.normalizes else (127.5, 127.5)
        mean, std = (usual[i] if given is None else given for i, given in enumerate((self.mean, self.std)))
        return torch.from_numpy(session.run(((values - mean) / std).astype(np.float32))).to(images.device)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing, since PyTorch does not run this network.

        Args:
            args: not used.
            kwargs: not used.
        """

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        # Sessions can be neither copied nor sent to another process.
        return {**super().__getstate__(), "_session": None}  # type: ignore[no-untyped-call]


def _per_channel(name: str, values: float | Sequence[float] | None) -> Any:
    """Return (3, 1, 1) float32, or None."""
    if values is None:
        return None
    array = np.asarray(values if isinstance(values, int | float) else list(values), np.float32)
    if array.shape not in ((), (3,)) or not np.isfinite(array).all():
        raise UserError(f"{name}={values}: must be a number, or one for each of three channels")
    return np.broadcast_to(array, 3).reshape(3, 1, 1).copy()
