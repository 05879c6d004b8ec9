// Any bytes as a generate request, on the way that a call takes: parsed, converted and admitted. What is admitted the engine
// can run.
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cmath>
#include <cstdint>
#include <memory>

#include "absl/time/clock.h"
#include "kernels/check.h"
#include "server/admission/admission.h"
#include "server/constraint/constraint_cache.h"
#include "server/rpc/convert.h"
#include "server/rpc/message.h"
#include "tests/fuzz/embedded_tokenizer.h"

namespace tauserve {
namespace {

constexpr int32_t kContext = 2000;

struct Door {
  Door() {
    auto chat = ChatTemplate::Load(kEmbeddedModel, "chatml", tokenizer.get());
    TAUSERVE_CHECK(chat.ok(), "a chat format");
    info.name = "recall-9m";
    info.vocab_size = 4096;
    info.eos_token_ids = {1};
    info.max_context_tokens = kContext;
    constraints = std::make_unique<ConstraintCache>(tokenizer.get(), 4096, 16 << 20, nullptr);
    admission = std::make_unique<Admission>(&info, tokenizer.get(), *std::move(chat),
                                            SamplingParams(), kContext, constraints.get());
  }
  ModelInfo info;
  const std::unique_ptr<Tokenizer> tokenizer = LoadEmbeddedTokenizer();
  std::unique_ptr<ConstraintCache> constraints;
  std::unique_ptr<Admission> admission;
};

void CheckRequest(const Request& r) {
  TAUSERVE_CHECK(!r.id.empty() && !r.prompt.empty(), "a request is something");
  for (const int32_t id : r.prompt) TAUSERVE_CHECK(id >= 0 && id < 4096, "a token of the prompt");
  TAUSERVE_CHECK(r.stopping.max_new_tokens >= 1, "max_new_tokens");
  TAUSERVE_CHECK(r.stopping.min_new_tokens <= r.stopping.max_new_tokens, "min_new_tokens");
  TAUSERVE_CHECK(static_cast<int64_t>(r.prompt.size()) + r.stopping.max_new_tokens <= kContext,
                 "the context");
  const SamplingParams& s = r.sampling;
  TAUSERVE_CHECK(std::isfinite(s.temperature) && s.temperature >= 0, "temperature");
  TAUSERVE_CHECK(s.top_k >= 0 && s.top_p > 0 && s.top_p <= 1 && s.min_p >= 0 && s.min_p <= 1,
                 "truncations");
  TAUSERVE_CHECK(std::isfinite(s.repetition_penalty) && s.repetition_penalty > 0, "penalty");
  TAUSERVE_CHECK(std::isfinite(s.presence_penalty) && std::isfinite(s.frequency_penalty),
                 "penalties");
  for (const auto& [id, bias] : s.logit_bias) {
    TAUSERVE_CHECK(id >= 0 && id < 4096 && std::isfinite(bias), "a bias");
  }
  for (const int32_t id : s.allowed_token_ids) TAUSERVE_CHECK(id >= 0 && id < 4096, "allowed");
  TAUSERVE_CHECK(r.stopping.time_limit > absl::ZeroDuration(), "time_limit");
}

}  // namespace
}  // namespace tauserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tauserve::Door* const door = new tauserve::Door();
  const grpc::Slice slice(data, size);
  const grpc::ByteBuffer bytes(&slice, 1);
  tauserve::v1::GenerateStreamRequest request;
  if (!tauserve::Parse(bytes, request).ok()) return 0;
  tauserve::ToView(request.input().response());
  const auto admitted = door->admission->Admit(tauserve::ToSpec(request.input()), absl::Now(),
                                               absl::InfiniteFuture());
  if (admitted.ok()) {
    tauserve::CheckRequest(**admitted);
  } else {
    TAUSERVE_CHECK(admitted.status().message().size() < 4096, "a message that fits a status");
  }
  return 0;
}
