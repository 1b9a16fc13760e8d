"""`VideoHasher`, which maps face images and face clips to binary codes."""

import hashlib
import importlib
import json
from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facereel.errors import UntrustedModuleError, UserError, first_line
from facereel.models.folding import FoldedEncoder
from facereel.storage.files import atomic_write, sha256_of
from facereel.storage.trust import is_trusted
from facereel.storage.untrusted import read_json

# Modules that a saved configuration may name without `trust`.
TRUSTED_MODULES = ("facereel.models",)

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"
# Images that the encoder gets at once on a CPU, for each thread: more do not fit in its caches.
_IMAGES_PER_THREAD = 4
# In the folder of an exported model, for `sha256sum -c`.
SUMS_FILE = "SHA256SUMS"


class VideoHasher(nn.Module):
    """Map face stills and face clips to binary codes in one Hamming space. Needs neither Lightning nor Hydra.

    Args:
        config: `_target_` and arguments of each part, under the keys preprocess, encoder, pooling and head. `save`
            writes it next to the weights.
        trust: modules in addition to `facereel.models` from which the configuration may name classes.

    Raises:
        UserError: if a part is missing, cannot be built, or is not trusted.

    Examples:
        >>> model = VideoHasher(DEFAULT_CONFIG)
        >>> model.encode_stills(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 48])
    """

    def __init__(self, config: Mapping[str, Any], trust: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config: dict[str, Any] = json.loads(json.dumps(dict(config)))
        self.trust = trust
        self._folded = FoldedEncoder()
        self.preprocess = _build(self.config, "preprocess", trust)
        self.encoder = _build(self.config, "encoder", trust)
        # Arguments that the encoder took from its file of weights: a saved model is built without that file.
        self.config["encoder"] |= getattr(self.encoder, "arguments_from_weights", {})
        # Convolutions run about 1.4 times as fast in this layout on the CPUs that we measured.
        self.lay_out(torch.channels_last)
        dim = self.encoder.dim
        self.pooling = _build(self.config, "pooling", trust, dim=dim)
        self.head = _build(self.config, "head", trust, still_dim=dim, clip_dim=self.pooling.out_dim)

    @property
    def n_bits(self) -> int:
        """Length of a code, K."""
        return int(self.head.n_bits)

    @property
    def device(self) -> torch.device:
        """Device of the encoder's weights."""
        return next(chain(self.encoder.parameters(), self.encoder.buffers(), self.preprocess.buffers())).device

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Set the memory layout of images and convolutions, which changes results by rounding errors only.

        Args:
            memory_format: for example `torch.channels_last`.
        """
        self._layout = memory_format
        self.encoder.to(memory_format=memory_format)

    def features(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Args:
            images: (B, 3, H, W) float in 0..1, RGB.

        Returns:
            (B, D) float32, or float64 from a float64 model.
        """
        prepared = self.preprocess(images).contiguous(memory_format=self._layout)
        features = _in_full(self._encode(prepared))
        if self.preprocess.flip_tta and not self.training:
            features = (features + _in_full(self._encode(prepared.flip(3)))) / 2
        return features

    def prepare_inference(self) -> Self:
        """Make encoding faster without changing the weights: batch norms are folded into convolutions, in a copy.

        Results change by rounding errors only. The copy is used in evaluation mode while gradients are off, until a
        weight changes; call this again then. A write through `Tensor.data` is not noticed. Repeated calls cost nothing.

        Returns:
            This model.
        """
        self._folded.prepare(self.encoder, self._blank, self._layout)
        return self

    def _blank(self) -> Tensor:
        """Return preprocessed noise."""
        size = self.preprocess.size
        noise = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(self.device)
        dtype = next(self.encoder.parameters(), noise).dtype
        return self.preprocess(noise).to(dtype).contiguous(memory_format=self._layout)

    def _encode(self, prepared: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.encoder(prepared)
        encoder = self._folded.choose(self.encoder)
        n = _IMAGES_PER_THREAD * torch.get_num_threads()
        if prepared.device.type != "cpu" or len(prepared) <= n:
            return encoder(prepared)
        return torch.cat([encoder(chunk) for chunk in torch.split(prepared, n)])

    def clip_features(self, clips: Tensor, mask: Tensor) -> Tensor:
        """Compute the features of the real frames of clips.

        Args:
            clips: (B, T, 3, H, W) float in 0..1, RGB.
            mask: (B, T) bool, True for a real frame.

        Returns:
            (B, T, D) float32, or float64 from a float64 model; zero where the mask is False.
        """
        encoded = self.features(clips[mask])
        return encoded.new_zeros(*mask.shape, encoded.shape[-1]).masked_scatter(mask[..., None], encoded)

    def hash_stills(self, features: Tensor) -> Tensor:
        """Compute the scores of stills.

        Args:
            features: (B, D) features of stills.

        Returns:
            (B, K) scores in 0..1.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.head.forward_stills(self.pooling(features[:, None]) if self.head.pools_stills else features)

    def hash_clips(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the scores of clips.

        Args:
            features: (B, T, D) features of frames.
            mask: (B, T) bool, True for a real frame; None if all are real.

        Returns:
            (B, K) scores in 0..1.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self.hash_pooled(self.pooling(features, mask))

    def hash_pooled(self, pooled: Tensor) -> Tensor:
        """Compute the scores of clips that are already pooled.

        Args:
            pooled: (B, P) pooled clips.

        Returns:
            (B, K) scores in 0..1.
        """
        with torch.autocast(pooled.device.type, enabled=False):
            return self.head.forward_clips(pooled)

    @torch.inference_mode()
    def encode_stills(self, images: Tensor, return_scores: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Encode face images in evaluation mode, and restore the model's mode.

        Args:
            images: (B, 3, H, W) float in 0..1, RGB.
            return_scores: also return the real-valued outputs.

        Returns:
            Codes, (B, K) bool; with `return_scores` also the scores, (B, K) float in 0..1.

        Raises:
            ValueError: if `images` has the wrong shape or type.
        """
        return self._codes(lambda: self.hash_stills(self.features(images)), return_scores)

    @torch.inference_mode()
    def encode_clips(
        self, clips: Tensor, mask: Tensor | None = None, return_scores: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Encode clips, each a sequence of images of one face, in evaluation mode, and restore the model's mode.

        Args:
            clips: (B, T, 3, H, W) float in 0..1, RGB.
            mask: (B, T) bool, True for a real frame; None if all are real.
            return_scores: also return the real-valued outputs.

        Returns:
            Codes, (B, K) bool; with `return_scores` also the scores, (B, K) float in 0..1.

        Raises:
            ValueError: if a shape is wrong or a clip has no real frame.
        """
        if clips.ndim != 5:
            raise ValueError(f"clips must be (B, T, 3, H, W), not {tuple(clips.shape)}")
        mask = clips.new_ones(clips.shape[:2], dtype=torch.bool) if mask is None else mask
        if mask.shape != clips.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool {tuple(clips.shape[:2])}, not {mask.dtype} {tuple(mask.shape)}")
        if not mask.any(dim=1).all():
            raise ValueError("every clip needs at least one real frame, but a row of the mask is all False")
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

    def untrained(self) -> "VideoHasher":
        """Build a model of the same architecture with random weights, as a baseline.

        Returns:
            The new model, in training mode, on the CPU. An encoder without parameters, as `OnnxEncoder`, is
            copied.
        """
        model = VideoHasher(_without_weights(self.config), self.trust)
        if next(self.encoder.parameters(), None) is None:
            model.encoder.load_state_dict(self.encoder.state_dict())
        return model

    def fingerprint(self) -> str:
        """Compute the SHA-256 hash of the configuration and the weights, which together determine the codes.

        Returns:
            64 hexadecimal digits.
        """
        return _digest(self, json.dumps(_without_weights(self.config), sort_keys=True))

    def encoder_fingerprint(self) -> str:
        """Compute the SHA-256 hash of the encoder's weights.

        Returns:
            64 hexadecimal digits.
        """
        return _digest(self.encoder)

    def save(self, folder: str | Path) -> None:
        """Write model.safetensors and model.json to a folder, each atomically.

        Args:
            folder: created if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as path:
            save_file(state, path)
        with atomic_write(folder / CONFIG_FILE) as path:
            path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path, trust: tuple[str, ...] = ()) -> Self:
        """Load a model from a folder written by `save`, from a run, or from a training checkpoint.

        Args:
            path: a folder, or a .ckpt file of a run. Nothing is unpickled. The folder of a run has its model in
                `model/`.
            trust: modules in addition to `facereel.models` from which the configuration may name classes.

        Returns:
            The model in evaluation mode, on the CPU.

        Raises:
            UserError: if there is no model at the path, or the file is damaged.
        """
        path = Path(path)
        if not path.exists():
            raise UserError(f"cannot load the model {path}: no such file or folder")
        config, state = _read_folder(path) if path.is_dir() else _read_checkpoint(path)
        if not isinstance(config, dict) or not all(isinstance(part, dict) for part in config.values()):
            raise UserError(f"cannot load the model {path}: its configuration does not describe a model")
        parts = _without_weights(config)
        misfit = f"cannot load the model {path}: the weights do not fit the model that its configuration describes"
        if not trust:  # compare shapes before allocating memory: an untrusted file may describe terabytes
            with torch.device("meta"):
                shapes = {name: tensor.shape for name, tensor in cls(parts).state_dict().items()}
            if shapes != {name: tensor.shape for name, tensor in state.items()}:
                raise UserError(misfit)
        model = cls(parts, trust).eval()
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(misfit) from error
        if not trust:
            model._check_encodes(path)
        return model

    def _check_encodes(self, path: Path) -> None:
        size = self.preprocess.size
        try:
            self.encode_stills(torch.zeros(1, 3, size, size))
            self.encode_clips(torch.zeros(1, 2, 3, size, size))
        except Exception as error:  # an untrusted configuration may cause any error
            raise UserError(f"cannot load the model {path}: its model cannot encode an image: {error}") from error


def _in_full(features: Tensor) -> Tensor:
    """Return the features, converted to float32 if autocast made them half precision."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _digest(module: nn.Module, about: str = "") -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration without the paths of initial weights: a saved model contains its weights."""
    return {key: {k: v for k, v in part.items() if k != "weights"} for key, part in config.items()}


def _build(config: Mapping[str, Any], key: str, trust: tuple[str, ...], **extra: Any) -> Any:
    part = config.get(key)
    if not isinstance(part, dict) or not isinstance(part.get("_target_"), str):
        raise UserError(f"the model configuration has no {key}._target_")
    target = part["_target_"]
    module, _, name = target.rpartition(".")
    if not is_trusted(module, (*TRUSTED_MODULES, *trust)):
        raise UntrustedModuleError(f"{key}._target_={target}: the module is not trusted", module)
    try:
        factory = getattr(importlib.import_module(module), name)
        # A module also contains functions, and calling one could do anything. A model inside a model would let the
        # configuration choose which modules are trusted.
        if not (isinstance(factory, type) and issubclass(factory, nn.Module)) or issubclass(factory, VideoHasher):
            raise TypeError("it is not a torch module that can be a part of a model")
        return factory(**{k: _argument(k, v, trust) for k, v in part.items() if k != "_target_"}, **extra)
    except Exception as error:  # an untrusted configuration may cause any error
        raise UserError(f"cannot build {key} from {target}: {first_line(error)}") from error


def _argument(key: str, value: Any, trust: tuple[str, ...]) -> Any:
    """Return an argument of a part; a nested part becomes a factory, since the outer one knows its dimensions."""
    return partial(_build, {key: value}, key, trust) if isinstance(value, dict) and "_target_" in value else value


def _read_folder(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = path if (path / CONFIG_FILE).is_file() else path / "model"
    try:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            _check_sum(folder / name)
        config = read_json(folder / CONFIG_FILE)
        return config, load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise UserError(f"cannot load the model {path}: the folder has no {CONFIG_FILE} and {WEIGHTS_FILE}") from error
    except (ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"cannot load the model {path}: {CONFIG_FILE} or {WEIGHTS_FILE} is damaged: {error}") from error


def _check_sum(file: Path) -> None:
    """Check the file's hash against SHA256SUMS, if that exists.

    Raises:
        ValueError: if they differ.
    """
    sums = file.with_name(SUMS_FILE)
    if not sums.is_file():
        return
    listed = [line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines()]
    known = [digest for digest, _, name in listed if name == file.name]
    if known and known[-1] != sha256_of(file):
        raise ValueError(f"the hash of {file.name} differs from the one in {SUMS_FILE}")


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        config, state = content["hasher_config"], content["state_dict"]
        prefix = "hasher."
        weights = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("a weight is not a tensor")
        json.dumps(config)
        return config, weights
    except Exception as error:  # the bytes of an untrusted file may lead torch.load to any error
        raise UserError(f"cannot load the model {path}: it is not a facereel checkpoint") from error


DEFAULT_CONFIG: dict[str, Any] = {
    "preprocess": {"_target_": "facereel.models.Preprocess"},
    "encoder": {"_target_": "facereel.models.CasiaEncoder"},
    "pooling": {"_target_": "facereel.models.LogCovariancePooling"},
    "head": {"_target_": "facereel.models.SeparateHeads", "n_bits": 48},
}
