"""Models with random weights for Inductor: what it makes of a graph does not depend on the weights.

Each entry builds a module and the arguments of one call at a `Size`. The ones from transformers are real
architectures with fewer and narrower layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Case = tuple[nn.Module, tuple[Any, ...]]


@dataclass(frozen=True)
class Size:
    """How large a model and its input are; images have `image` pixels a side."""

    batch: int = 2
    length: int = 24
    width: int = 64
    inner: int = 96
    layers: int = 2
    heads: int = 4
    vocabulary: int = 128
    image: int = 16


SMALL = Size()
LARGE = Size(batch=4, length=128, width=256, inner=1024, vocabulary=1024, image=64)
Build = Callable[[Size], Case]


class Picked(nn.Module):
    """A model of which one output tensor counts."""

    def __init__(self, model: nn.Module, name: str, argument: str = "input_ids", **fixed: Any) -> None:
        super().__init__()
        self.model, self.name, self.argument, self.fixed = model, name, argument, fixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.model(**{self.argument: x}, **self.fixed), self.name)


def tokens(size: Size) -> tuple[torch.Tensor]:
    return (torch.randint(3, size.vocabulary, (size.batch, size.length)),)


def configuration(name: str, size: Size, changes: dict[str, Any]) -> Any:
    import transformers

    sizes = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.inner,
        "max_position_embeddings": 2 * size.length + 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return getattr(transformers, f"{name}Config")(**{**sizes, **changes})


def language_model(name: str, head: str = "ForCausalLM", **changes: Any) -> Build:
    """A causal language model: logits without a cache."""

    def build(size: Size) -> Case:
        import transformers

        model = getattr(transformers, f"{name}{head}")(configuration(name, size, changes))
        return Picked(model, "logits", use_cache=False), tokens(size)

    return build


def encoder(name: str, **changes: Any) -> Build:
    """A text encoder: its last hidden state."""

    def build(size: Size) -> Case:
        import transformers

        model = getattr(transformers, f"{name}Model")(configuration(name, size, changes))
        return Picked(model, "last_hidden_state"), tokens(size)

    return build


def opt(size: Size) -> Case:
    changes = {"ffn_dim": size.inner, "word_embed_proj_dim": size.width}
    return language_model("OPT", **changes)(size)


def distilbert(size: Size) -> Case:
    changes = {"dim": size.width, "n_layers": size.layers, "n_heads": size.heads, "hidden_dim": size.inner}
    return encoder("DistilBert", **changes)(size)


def t5(size: Size) -> Case:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=size.vocabulary,
        d_model=size.width,
        d_kv=size.width // size.heads,
        d_ff=size.inner,
        num_layers=size.layers,
        num_heads=size.heads,
        decoder_start_token_id=0,
    )
    (words,) = tokens(size)
    model = T5ForConditionalGeneration(config)
    return Picked(model, "logits", decoder_input_ids=words[:, :8], use_cache=False), (words,)


def vit(size: Size) -> Case:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        intermediate_size=size.inner,
        image_size=2 * size.image,
        patch_size=8,
    )
    images = torch.randn(size.batch, 3, 2 * size.image, 2 * size.image)
    return Picked(ViTModel(config), "last_hidden_state", "pixel_values"), (images,)


def whisper_encoder(size: Size) -> Case:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=size.width,
        encoder_layers=size.layers,
        encoder_attention_heads=size.heads,
        encoder_ffn_dim=size.inner,
        num_mel_bins=16,
        max_source_positions=size.length,
    )
    sound = torch.randn(size.batch, 16, 2 * size.length)
    return Picked(WhisperEncoder(config), "last_hidden_state", "input_features"), (sound,)


def mamba(size: Size) -> Case:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width // 2,
        state_size=8,
        num_hidden_layers=size.layers,
        conv_kernel=4,
    )
    return Picked(MambaForCausalLM(config), "logits", use_cache=False), (tokens(size)[0][:, :24],)


def mlp(size: Size) -> Case:
    wide = size.width * 3 // 2
    model = nn.Sequential(
        nn.Linear(size.width, wide), nn.GELU(), nn.LayerNorm(wide), nn.Dropout(0.1), nn.Linear(wide, 10),
        nn.Softmax(-1),
    )  # fmt: skip
    return model, (torch.randn(16 * size.batch, size.width),)


def cnn(size: Size) -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.SiLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(128, 10), nn.LogSoftmax(-1),
    )  # fmt: skip
    return model, (torch.randn(2 * size.batch, 3, size.image, size.image),)


class Recurrent(nn.Module):
    """Embedded words through two layers of LSTM."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.vocabulary, size.width)
        self.lstm = nn.LSTM(size.width, size.width, 2, batch_first=True)
        self.out = nn.Linear(size.width, size.vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.out(torch.tanh(self.lstm(self.embed(x))[0])), -1)


class UNet(nn.Module):
    """One level down and up again, with the skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.norm, self.out = nn.GroupNorm(4, 32), nn.Conv2d(48, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = torch.relu(self.down(x))
        low = nn.functional.silu(self.norm(self.inner(nn.functional.avg_pool2d(top, 2))))
        up = nn.functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return torch.sigmoid(self.out(torch.cat([top, up], 1)))


class AutoEncoder(nn.Module):
    """With a latent that is clipped, scored and decoded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.latent = width // 8
        self.encode = nn.Sequential(nn.Linear(width, 32), nn.ELU(), nn.Linear(32, 2 * self.latent))
        self.decode = nn.Sequential(nn.Linear(self.latent, 32), nn.Mish(), nn.Linear(32, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, spread = self.encode(x).chunk(2, -1)
        latent = mean + torch.exp(spread.clamp(-4, 4) / 2) * x[:, : self.latent]
        kl = (mean**2 + spread.exp() - 1 - spread).sum(-1, keepdim=True) / 2
        return torch.cat([self.decode(latent), kl], -1)


class Mixer(nn.Module):
    """Two blocks that mix tokens and channels in turn."""

    def __init__(self, size: Size) -> None:
        super().__init__()

        def mlp(width: int) -> nn.Module:
            return nn.Sequential(nn.Linear(width, 64), nn.GELU(approximate="tanh"), nn.Linear(64, width))

        self.norms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(4))
        self.tokens = nn.ModuleList(mlp(size.length) for _ in range(2))
        self.channels = nn.ModuleList(mlp(size.width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for at in range(2):
            x = x + self.tokens[at](self.norms[2 * at](x).transpose(1, 2)).transpose(1, 2)
            x = x + self.channels[at](self.norms[2 * at + 1](x))
        return x.mean(1)


MODELS: dict[str, Build] = {
    "llama": language_model("Llama", num_key_value_heads=2),
    "mistral": language_model("Mistral", num_key_value_heads=2, sliding_window=16),
    "qwen2": language_model("Qwen2", num_key_value_heads=2),
    "gemma": language_model("Gemma", num_key_value_heads=1, head_dim=16),
    "phi": language_model("Phi"),
    "gpt2": language_model("GPT2", "LMHeadModel"),
    "opt": opt,
    "mamba": mamba,
    "bert": encoder("Bert"),
    "roberta": encoder("Roberta"),
    "distilbert": distilbert,
    "albert": encoder("Albert", embedding_size=32),
    "electra": encoder("Electra", embedding_size=32),
    "clip_text": encoder("CLIPText"),
    "t5": t5,
    "vit": vit,
    "whisper_encoder": whisper_encoder,
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lambda size: (Recurrent(size), tokens(size)),
    "unet": lambda size: (UNet(), (torch.randn(size.batch, 3, size.image, size.image),)),
    "autoencoder": lambda size: (AutoEncoder(size.width), (torch.randn(16 * size.batch, size.width),)),
    "mixer": lambda size: (Mixer(size), (torch.randn(size.batch, size.length, size.width),)),
}


def build(name: str, size: Size = SMALL, *, training: bool = False) -> Case:
    """The model of a name, with the same random weights and inputs every time."""
    torch.manual_seed(0)
    model, inputs = MODELS[name](size)
    return model.train(training), inputs
