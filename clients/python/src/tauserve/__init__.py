"""Client of Tauserve, an inference server for transformers with entmax attention.

    import tauserve

    with tauserve.Client("127.0.0.1:50051") as client:
        for event in client.stream("Once upon a time", tauserve.GenerationOptions(max_new_tokens=100)):
            if isinstance(event, tauserve.CandidateDelta):
                print(event.text, end="", flush=True)
"""

import pkgutil

# Modules that a program has made from the API's files by itself are tauserve.inference.v1 and stay importable.
__path__ = pkgutil.extend_path(__path__, __name__)

from tauserve._encode import Prompt
from tauserve.aio import AsyncClient, AsyncControlClient, AsyncGenerationStream
from tauserve.chat import Chat, ChatMessage, ChatTemplate, Message
from tauserve.client import Client, ControlClient, GenerationStream
from tauserve.connection import Credentials, RetryPolicy
from tauserve.errors import (
    AlreadyExistsError,
    CancelledError,
    ChatTemplateError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    TauserveError,
    UnauthenticatedError,
    UnavailableError,
)
from tauserve.options import GenerationOptions, JsonObject, JsonSchema, Regex, StructuredOutput
from tauserve.results import (
    AttentionStats,
    Candidate,
    CandidateDelta,
    CandidateFinished,
    Event,
    FinishReason,
    Generation,
    Load,
    ModelInfo,
    PrefillProgress,
    PromptInfo,
    ServerInfo,
    Started,
    StreamCompleted,
    Timings,
    Tokenization,
    TokenLogprob,
    TopLogprob,
    Usage,
)

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncControlClient",
    "AsyncGenerationStream",
    "AttentionStats",
    "CancelledError",
    "Candidate",
    "CandidateDelta",
    "CandidateFinished",
    "Chat",
    "ChatMessage",
    "ChatTemplate",
    "ChatTemplateError",
    "Client",
    "ControlClient",
    "Credentials",
    "DeadlineExceededError",
    "Event",
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "GenerationStream",
    "InternalError",
    "InvalidArgumentError",
    "JsonObject",
    "JsonSchema",
    "Load",
    "Message",
    "ModelInfo",
    "NotFoundError",
    "PermissionDeniedError",
    "PrefillProgress",
    "Prompt",
    "PromptInfo",
    "Regex",
    "ResourceExhaustedError",
    "RetryPolicy",
    "ServerInfo",
    "Started",
    "StreamCompleted",
    "StructuredOutput",
    "TauserveError",
    "Timings",
    "TokenLogprob",
    "Tokenization",
    "TopLogprob",
    "UnauthenticatedError",
    "UnavailableError",
    "Usage",
]
