"""The models: Llama blocks with entmax or softmax attention, and positions by NAPE or rotary.

With NAPE the first heads of a layer have an ALiBi bias. The others have
no position at all (NoPE); their queries are scaled with the position i by
delta + beta * log(i + 2)^gamma (ASEntmax), where beta = softplus(w_beta x) and
gamma = range * tanh(w_gamma x).

A saved state, state.pt, is torch.save's: "config", the fields of Config, and "parameters", float32
tensors by their names in Model (embedding, layers.0.w_q, ...).
"""

from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from attention import attention_of


@dataclass(frozen=True)
class Config:
    vocabulary: int = 4096
    hidden: int = 320
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    intermediate: int = 896
    alpha: float = 1.5  # of entmax; 1 is softmax
    rotary: bool = False  # else NAPE
    rope_theta: float = 500000.0  # rotary's base
    alibi_heads: int = 4  # with NAPE
    scale_delta: float = 1.0
    scale_gamma_range: float = 1.0
    norm_eps: float = 1e-5

    @property
    def scaled_heads(self):
        """NoPE heads, whose queries are scaled."""
        return 0 if self.rotary else self.heads - self.alibi_heads

    @property
    def alibi_slopes(self):
        """One a head: 1, 1/2, 1/4, ...; 0 for the heads without a bias."""
        alibi_heads = 0 if self.rotary else self.alibi_heads
        return [2.0**-i for i in range(alibi_heads)] + [0.0] * (self.heads - alibi_heads)


RECALL_9M = Config()
# By their names for --variant. The softmax ones are the entmax one's twins.
VARIANTS = {
    "entmax": RECALL_9M,
    "softmax-nape": replace(RECALL_9M, alpha=1.0),
    "softmax-rotary": replace(RECALL_9M, alpha=1.0, rotary=True),
}


def tiny(config):
    """To try programs on a CPU."""
    return replace(config, hidden=64, layers=2, intermediate=128)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def position_table(config, first, count, device):
    """What project() has to know of the positions from `first`.

    NAPE: [count, 1], log(log(i + 2)). Rotary: [count, head_dim], the cosines of i times head_dim / 2
    frequencies, then the sines.
    """
    position = first + torch.arange(count, device=device).float()
    if not config.rotary:
        return torch.log(torch.log(position + 2))[:, None]
    dimension = torch.arange(0, config.head_dim, 2, device=device).float()
    angle = position[:, None] * config.rope_theta ** (-dimension / config.head_dim)
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


# The functions from here to weighted_loss get compiled: they take tensors and numbers, never
# modules.


def rotate(x, table):
    """x [tokens, heads, head_dim], turned by the rotary table's angles."""
    low, high = x.float().chunk(2, -1)
    cos, sin = table[:, None].chunk(2, -1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(x.dtype)


def scale_queries(q, h, w_scale, table, config: Config):
    """q [tokens, heads, head_dim] with the NoPE heads scaled, from h [tokens, hidden]."""
    beta_gamma = (h @ w_scale.to(h.dtype).T).float()
    beta = F.softplus(beta_gamma[:, : config.scaled_heads])
    gamma = config.scale_gamma_range * torch.tanh(beta_gamma[:, config.scaled_heads :])
    scale = config.scale_delta + beta * torch.exp(gamma * table)
    scaled = (q[:, config.alibi_heads :].float() * scale[..., None]).to(q.dtype)
    return torch.cat([q[:, : config.alibi_heads], scaled], 1)


def project(x, norm, w_q, w_k, w_v, w_scale, table, config: Config, dtype: torch.dtype):
    """x [tokens, hidden] float32 -> what the attention takes.

    table: position_table's. Queries [tokens, heads, head_dim], keys and values [tokens, kv_heads,
    head_dim].
    """
    h = rms_norm(x, norm, config.norm_eps).to(dtype)
    q = (h @ w_q.to(dtype).T).unflatten(-1, (config.heads, config.head_dim))
    k = (h @ w_k.to(dtype).T).unflatten(-1, (config.kv_heads, config.head_dim))
    v = (h @ w_v.to(dtype).T).unflatten(-1, (config.kv_heads, config.head_dim))
    if config.rotary:
        return rotate(q, table), rotate(k, table), v
    return scale_queries(q, h, w_scale, table, config), k, v


def finish(x, attended, w_o, norm, w_gate, w_up, w_down, eps: float, dtype: torch.dtype):
    """The rest of a block: output projection and gated MLP, each added to x."""
    x = x + (attended @ w_o.to(dtype).T).float()
    h = rms_norm(x, norm, eps).to(dtype)
    gated = F.silu(h @ w_gate.to(dtype).T) * (h @ w_up.to(dtype).T)
    return x + (gated @ w_down.to(dtype).T).float()


def weighted_loss(x, norm, embedding, targets, weights, eps: float, dtype: torch.dtype):
    """Sum of the targets' cross entropies (nats), each times its weight."""
    logits = (rms_norm(x, norm, eps).to(dtype) @ embedding.to(dtype).T).float()
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()


def random_matrix(rows, columns, std=None):
    std = columns**-0.5 * 0.6 if std is None else std
    return nn.Parameter(torch.randn(rows, columns) * std)


class Layer(nn.Module):
    """The parameters of one block, float32. Matrices are [outputs, inputs]."""

    def __init__(self, config):
        super().__init__()
        hidden, q_size = config.hidden, config.heads * config.head_dim
        kv_size = config.kv_heads * config.head_dim
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.w_q = random_matrix(q_size, hidden)
        self.w_k = random_matrix(kv_size, hidden)
        self.w_v = random_matrix(kv_size, hidden)
        self.w_o = random_matrix(hidden, q_size, 0.0)
        # The scaled heads' w_beta, then their w_gamma.
        scaled = config.scaled_heads
        w_scale = random_matrix(2 * scaled, hidden, 0.01) if scaled else None
        self.register_parameter("w_scale", w_scale)
        self.w_gate = random_matrix(config.intermediate, hidden)
        self.w_up = random_matrix(config.intermediate, hidden)
        self.w_down = random_matrix(hidden, config.intermediate, 0.0)


class Model(nn.Module):
    def __init__(self, config, compiled=False):
        super().__init__()
        self.config = config
        self.attention = attention_of(config)
        self.embedding = random_matrix(config.vocabulary, config.hidden, 0.05)
        self.final_norm = nn.Parameter(torch.ones(config.hidden))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

        def maybe_compile(function):
            return torch.compile(function, dynamic=False) if compiled else function

        self.project = maybe_compile(project)
        self.finish = maybe_compile(finish)
        self.weighted_loss = maybe_compile(weighted_loss)

    def project_layer(self, layer, x, table, dtype):
        weights = (layer.attention_norm, layer.w_q, layer.w_k, layer.w_v, layer.w_scale)
        return self.project(x, *weights, table, self.config, dtype)

    def finish_layer(self, layer, x, attended, dtype):
        weights = (layer.w_o, layer.mlp_norm, layer.w_gate, layer.w_up, layer.w_down)
        return self.finish(x, attended, *weights, self.config.norm_eps, dtype)

    def trunk(self, ids, dtype=torch.bfloat16, attention=None):
        """ids [batch, length] -> float32 [batch * length, hidden], before the final norm.

        dtype: of the matrix products. attention: instead of the model's own.
        """
        batch, length = ids.shape
        table = position_table(self.config, 0, length, ids.device).repeat(batch, 1)
        x = F.embedding(ids.reshape(-1), self.embedding).float()
        for layer in self.layers:
            q, k, v = (
                tensor.unflatten(0, (batch, length))
                for tensor in self.project_layer(layer, x, table, dtype)
            )
            attended = (attention or self.attention)(q, k, v)
            x = self.finish_layer(layer, x, attended.flatten(2).flatten(0, 1), dtype)
        return x

    def logits(self, x, dtype=torch.bfloat16):
        """x [tokens, hidden] of the trunk -> float32 [tokens, vocabulary]."""
        normed = rms_norm(x, self.final_norm, self.config.norm_eps).to(dtype)
        return (normed @ self.embedding.to(dtype).T).float()

    def loss(self, x, targets, weights, dtype):
        eps = self.config.norm_eps
        return self.weighted_loss(x, self.final_norm, self.embedding, targets, weights, eps, dtype)


def save_state(model, path):
    parameters = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    torch.save({"config": asdict(model.config), "parameters": parameters}, path)


def load_state(path):
    """-> the configuration, and the parameters on the CPU."""
    state = torch.load(path, map_location="cpu")
    return Config(**state["config"]), state["parameters"]


def rounded_model(config, parameters, device):
    """The model with weights rounded to bfloat16, as they are exported."""
    model = Model(config).to(device)
    model.load_state_dict({name: value.bfloat16().float() for name, value in parameters.items()})
    return model.eval()
