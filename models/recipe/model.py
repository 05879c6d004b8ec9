"""The model: Llama blocks without rotary embedding, entmax-1.5 attention, and two kinds of heads.

Reads and writes no files. The first heads of a layer have an ALiBi bias. The others have no
position at all (NoPE); their queries are scaled with the position i by
delta + beta * log(i + 2)^gamma (ASEntmax), where beta = softplus(w_beta x) and
gamma = range * tanh(w_gamma x). The parameters' names (embedding, layers.0.w_q, ...) are those of a
saved state, state.pt, which torch.save wrote: a dictionary of float32 tensors.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Config:
    vocabulary: int = 4096
    hidden: int = 320
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    intermediate: int = 896
    alibi_heads: int = 4
    scale_delta: float = 1.0
    scale_gamma_range: float = 1.0
    norm_eps: float = 1e-5


RECALL_9M = Config()
TINY = replace(RECALL_9M, hidden=64, layers=2, intermediate=128)  # to try programs on a CPU


def alibi_slopes(config):
    """[heads]: 1, 1/2, 1/4, ...; 0 for the heads without a bias."""
    without = config.heads - config.alibi_heads
    return torch.tensor([2.0**-i for i in range(config.alibi_heads)] + [0.0] * without)


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def log_log_positions(first, count, device):
    """[count]: log(log(i + 2)) of the positions from `first`."""
    return torch.log(torch.log(first + torch.arange(count, device=device).float() + 2))


# The next three functions get compiled: they take tensors and numbers, never modules.


def project(x, norm, w_q, w_k, w_v, w_scale, log_log_position, config: Config, dtype: torch.dtype):
    """x [tokens, hidden] float32 -> what the attention takes.

    log_log_position [tokens]. Queries [tokens, heads, head_dim] are scaled; keys and values are
    [tokens, kv_heads * head_dim].
    """
    h = rms_norm(x, norm, config.norm_eps).to(dtype)
    q = (h @ w_q.to(dtype).T).view(-1, config.heads, config.head_dim)
    k = h @ w_k.to(dtype).T
    v = h @ w_v.to(dtype).T
    beta_gamma = (h @ w_scale.to(dtype).T).float()
    scaled_heads = config.heads - config.alibi_heads
    beta = F.softplus(beta_gamma[:, :scaled_heads])
    gamma = config.scale_gamma_range * torch.tanh(beta_gamma[:, scaled_heads:])
    scale = config.scale_delta + beta * torch.exp(gamma * log_log_position[:, None])
    scaled = (q[:, config.alibi_heads :].float() * scale[..., None]).to(dtype)
    return torch.cat([q[:, : config.alibi_heads], scaled], 1), k, v


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
        self.w_scale = random_matrix(2 * (config.heads - config.alibi_heads), hidden, 0.01)
        self.w_gate = random_matrix(config.intermediate, hidden)
        self.w_up = random_matrix(config.intermediate, hidden)
        self.w_down = random_matrix(hidden, config.intermediate, 0.0)


class Model(nn.Module):
    """attention(q, k, v, slopes) is entmax_attention's on a GPU, reference_attention's on a CPU."""

    def __init__(self, config, attention, compiled=False):
        super().__init__()
        self.config = config
        self.attention = attention
        self.embedding = random_matrix(config.vocabulary, config.hidden, 0.05)
        self.final_norm = nn.Parameter(torch.ones(config.hidden))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.register_buffer("slopes", alibi_slopes(config), persistent=False)

        def maybe_compile(function):
            return torch.compile(function, dynamic=False) if compiled else function

        self.project = maybe_compile(project)
        self.finish = maybe_compile(finish)
        self.weighted_loss = maybe_compile(weighted_loss)

    def project_layer(self, layer, x, log_log_position, dtype):
        weights = (layer.attention_norm, layer.w_q, layer.w_k, layer.w_v, layer.w_scale)
        return self.project(x, *weights, log_log_position, self.config, dtype)

    def finish_layer(self, layer, x, attended, dtype):
        weights = (layer.w_o, layer.mlp_norm, layer.w_gate, layer.w_up, layer.w_down)
        return self.finish(x, attended, *weights, self.config.norm_eps, dtype)

    def trunk(self, ids, dtype=torch.bfloat16, attention=None):
        """ids [batch, length] -> float32 [batch * length, hidden], before the final norm.

        dtype: of the matrix products. attention: instead of the model's own.
        """
        config = self.config
        batch, length = ids.shape
        log_log_position = log_log_positions(0, length, ids.device).repeat(batch)
        x = F.embedding(ids.reshape(-1), self.embedding).float()
        for layer in self.layers:
            q, k, v = self.project_layer(layer, x, log_log_position, dtype)
            q = q.view(batch, length, config.heads, config.head_dim)
            k = k.view(batch, length, config.kv_heads, config.head_dim)
            v = v.view(batch, length, config.kv_heads, config.head_dim)
            attended = (attention or self.attention)(q, k, v, self.slopes)
            attended = attended.reshape(batch * length, config.heads * config.head_dim).to(dtype)
            x = self.finish_layer(layer, x, attended, dtype)
        return x

    def logits(self, x, dtype=torch.bfloat16):
        """x [tokens, hidden] of the trunk -> float32 [tokens, vocabulary]."""
        normed = rms_norm(x, self.final_norm, self.config.norm_eps).to(dtype)
        return (normed @ self.embedding.to(dtype).T).float()

    def loss(self, x, targets, weights, dtype):
        eps = self.config.norm_eps
        return self.weighted_loss(x, self.final_norm, self.embedding, targets, weights, eps, dtype)


def rounded_model(config, attention, state, device):
    """The model of a saved state with weights rounded to bfloat16, as they are exported."""
    model = Model(config, attention).to(device)
    model.load_state_dict({name: value.bfloat16().float() for name, value in state.items()})
    return model.eval()
