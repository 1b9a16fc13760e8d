"""`VideoHasher`: pictures and clips of faces to codes."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facereel.errors import UserError
from facereel.files import read_json, sha256_of, write_beside
from facereel.trust import is_trusted

# Modules a saved configuration may name; anything else needs `trust`, or `facereel.trust.trust_modules`.
TRUSTED_MODULES = ("facereel.models",)

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"
# What `sha256sum -c` reads; beside a model that was exported.
SUMS_FILE = "SHA256SUMS"


class VideoHasher(nn.Module):
    """Face stills and face clips to binary codes in one Hamming space. Needs neither Lightning nor Hydra.

    Args:
        config: `_target_` and arguments of each part, by the keys preprocess, encoder, pooling and head. What is given
            here is what `save` writes beside the weights.
        trust: modules besides `facereel.models` whose classes the configuration may name.

    Raises:
        UserError: for a part that is missing, cannot be built, or is not trusted.

    Examples:
        >>> model = VideoHasher(DEFAULT_CONFIG)
        >>> model.encode_stills(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 48])
    """

    def __init__(self, config: Mapping[str, Any], trust: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.trust = trust
        self.preprocess = _build(self.config, "preprocess", trust)
        self.encoder = _build(self.config, "encoder", trust)
        # Convolutions run about 1.4 x as fast in this layout on the CPUs we measured.
        self.lay_out(torch.channels_last)
        dim = self.encoder.dim
        self.pooling = _build(self.config, "pooling", trust, dim=dim)
        self.head = _build(self.config, "head", trust, still_dim=dim, clip_dim=self.pooling.out_dim)

    @property
    def n_bits(self) -> int:
        """K, the length of a code."""
        return int(self.head.n_bits)

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Lay pictures and convolutions out in memory so; it changes figures by rounding only."""
        self._layout = memory_format
        self.encoder.to(memory_format=memory_format)

    def features(self, images: Tensor) -> Tensor:
        """Encode pictures: (B, 3, H, W) float in 0..1 -> (B, D) float32, or float64 from a model of that."""
        prepared = self.preprocess(images).contiguous(memory_format=self._layout)
        features = _in_full(self.encoder(prepared))
        if self.preprocess.mirror and not self.training:  # training has its augmentation for that
            features = (features + _in_full(self.encoder(prepared.flip(3)))) / 2
        return features

    def clip_features(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Encode the real frames of clips: (B, T, 3, H, W), (B, T) -> (B, T, D), zero where mask is False."""
        encoded = self.features(clips[mask])
        return encoded.new_zeros(*mask.shape, encoded.shape[-1]).masked_scatter(mask[..., None], encoded)

    def hash_stills(self, features: Tensor) -> Tensor:
        """(B, D) features of stills -> (B, K) scores in 0..1."""
        with torch.autocast(features.device.type, enabled=False):
            return self.head.forward_stills(self.pooling(features[:, None]) if self.head.pools_stills else features)

    def hash_clips(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) features of frames -> (B, K) scores in 0..1."""
        with torch.autocast(features.device.type, enabled=False):
            return self.hash_pooled(self.pooling(features, mask))

    def hash_pooled(self, pooled: Tensor) -> Tensor:
        """(B, P) clips as the pooling leaves them -> (B, K) scores in 0..1."""
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head.forward_clips(pooled)

    @torch.inference_mode()
    def encode_stills(self, images: Tensor, return_scores: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Codes of still pictures of faces.

        Args:
            images: (B, 3, H, W) float in 0..1, RGB.
            return_scores: also return the real-valued outputs.

        Returns:
            (B, K) bool, and (B, K) float in 0..1 if asked for. The model is left in the mode it was in.

        Raises:
            ValueError: if images is not of that shape.
        """
        return self._codes(lambda: self.hash_stills(self.features(images)), return_scores)

    @torch.inference_mode()
    def encode_clips(
        self, clips: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Codes of clips, each a sequence of pictures of one face.

        Args:
            clips: (B, T, 3, H, W) float in 0..1, RGB.
            mask: (B, T) bool, True for a real frame; None if all are.
            return_scores: also return the real-valued outputs.

        Returns:
            (B, K) bool, and (B, K) float in 0..1 if asked for. The model is left in the mode it was in.

        Raises:
            ValueError: for wrong shapes, or a clip without a real frame.
        """
        if clips.ndim != 5:
            raise ValueError(f"clips must be (B, T, 3, H, W), not {tuple(clips.shape)}")
        mask = clips.new_ones(clips.shape[:2], dtype=torch.bool) if mask is None else mask
        if mask.shape != clips.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {tuple(clips.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")
        if not mask.any(dim=1).all():
            raise ValueError("every clip needs at least one real frame")
        return self._codes(lambda: self.hash_clips(self.clip_features(clips, mask), mask), return_scores)

    def _codes(self, compute: Any, return_scores: bool) -> Tensor | tuple[Tensor, Tensor]:
        training = self.training
        self.eval()
        try:
            scores = compute()
        finally:
            self.train(training)
        codes = scores > 0.5
        return (codes, scores) if return_scores else codes

    def untrained(self) -> VideoHasher:
        """Build the same architecture with random weights: what a trained model is compared with."""
        return VideoHasher(_without_weights(self.config), self.trust)

    def fingerprint(self) -> str:
        """SHA-256 of what decides the codes: the configuration and the weights, wherever they came from."""
        return _digest(self, json.dumps(_without_weights(self.config), sort_keys=True))

    def encoder_fingerprint(self) -> str:
        """SHA-256 of the encoder's weights: what a training starts from, wherever the file lies."""
        return _digest(self.encoder)

    def save(self, folder: str | Path) -> None:
        """Write model.safetensors and model.json; each appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with write_beside(folder / WEIGHTS_FILE) as path:
            save_file(state, path)
        with write_beside(folder / CONFIG_FILE) as path:
            path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, trust: tuple[str, ...] = ()) -> VideoHasher:
        """Read a model written by `save`, a run's folder that holds one in `model/`, or a training checkpoint.

        Args:
            path: a folder, or a .ckpt file of a run. Neither is unpickled.
            trust: modules besides `facereel.models` whose classes the configuration may name.

        Returns:
            The model in evaluation mode, on the CPU.

        Raises:
            UserError: if there is no such model, or the file is not one.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"checkpoint={path}: no such file or folder")
        config, state = _read_folder(path) if path.is_dir() else _read_checkpoint(path)
        if not isinstance(config, dict) or not all(isinstance(part, dict) for part in config.values()):
            raise UserError(f"checkpoint={path}: what it holds does not describe a model")
        parts = _without_weights(config)
        if not trust:  # by its shapes first, which take no memory: a stranger's file may describe a model of terabytes
            with torch.device("meta"):
                shapes = {name: tensor.shape for name, tensor in cls(parts).state_dict().items()}
            if shapes != {name: tensor.shape for name, tensor in state.items()}:
                raise UserError(f"checkpoint={path}: the weights do not fit the model that it describes")
        model = cls(parts, trust).eval()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(f"checkpoint={path}: the weights do not fit the model that it describes") from error
        if not trust:
            model._check_encodes(path)
        return model

    def _check_encodes(self, path: Path) -> None:
        size = self.preprocess.size
        try:
            self.encode_stills(torch.zeros(1, 3, size, size))
            self.encode_clips(torch.zeros(1, 2, 3, size, size))
        except Exception as error:  # whatever the numbers of a stranger's file lead its parts to
            raise UserError(
                f"checkpoint={path}: the model that it describes cannot encode a picture: {error}"
            ) from error


def _in_full(features: Tensor) -> Tensor:
    """What autocast left in half precision, in float32."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _digest(module: nn.Module, about: str = "") -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the weight files it once started from, which need not be there any more."""
    return {key: {k: v for k, v in part.items() if k != "weights"} for key, part in config.items()}


def _build(config: Mapping[str, Any], key: str, trust: tuple[str, ...], **extra: Any) -> Any:
    part = config.get(key)
    if not isinstance(part, dict) or not isinstance(part.get("_target_"), str):
        raise UserError(f"the model configuration has no {key} with a _target_")
    module, _, name = part["_target_"].rpartition(".")
    if not is_trusted(module, (*TRUSTED_MODULES, *trust)):
        raise UserError(
            f"{key}._target_={part['_target_']}: its module is not trusted; if you know where it comes from, give "
            f"--trust {module}, or in Python trust=({module!r},)"
        )
    try:
        target = getattr(importlib.import_module(module), name)
        # A module also holds functions, its own and imported ones: calling one of those could do anything. A model in
        # a model would be told by the configuration whom to trust.
        if not (isinstance(target, type) and issubclass(target, nn.Module)) or issubclass(target, VideoHasher):
            raise UserError(f"{key}._target_={part['_target_']} is not a torch module that can be a part of a model")
        return target(**{k: v for k, v in part.items() if k != "_target_"}, **extra)
    except UserError:
        raise
    except Exception as error:  # whatever the numbers of a stranger's file lead a part to
        reason = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise UserError(f"cannot build {key} from {part['_target_']}: {reason}") from error


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = path if (path / CONFIG_FILE).is_file() else path / "model"
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            _check_sum(folder / name)
        config = read_json(folder / CONFIG_FILE)
        return config, load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint={path}: the folder holds no {CONFIG_FILE} with {WEIGHTS_FILE}") from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"checkpoint={path}: {CONFIG_FILE} or {WEIGHTS_FILE} is damaged: {error}") from error


def _check_sum(file: Path) -> None:
    """Raise a ValueError if there is a list of hashes that has another for the file."""
    sums = file.with_name(SUMS_FILE)
    if not sums.is_file():
        return
    listed = [line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines()]
    known = [digest for digest, _, name in listed if name == file.name]
    if known and known[-1] != sha256_of(file):
        raise ValueError(f"{file.name} has another hash than {SUMS_FILE} says")


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, state = content["hasher_config"], content["state_dict"]
        prefix = "hasher."
        weights = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("a weight that is no tensor")
        json.dumps(config)
        return config, weights
    except Exception as error:  # torch.load raises whatever the bytes of a stranger's file lead it to
        raise UserError(f"checkpoint={path}: not a checkpoint of facereel") from error


DEFAULT_CONFIG: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess"},
    "encoder": {"_target_": "facereel.models.CasiaEncoder"},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling"},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 48},
}
