#include "server/rpc/generation.h"

#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/observability/logs.h"
#include "server/rpc/grpc_status.h"

namespace tauserve {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

std::string NameOfCode(const absl::Status& status) {
  return absl::StatusCodeToString(status.code());
}

double Milliseconds(absl::Duration d) { return absl::ToDoubleMilliseconds(d); }

}  // namespace

Generation::Generation(const ServingParts& parts, const grpc::CallbackServerContext& context)
    : parts_(parts), arrival_(absl::Now()), deadline_(DeadlineOf(context)) {}

grpc::Status Generation::Start(const v1::GenerationInput& input, std::shared_ptr<ResultSink> sink) {
  request_id_ = input.request_id();
  absl::StatusOr<std::shared_ptr<Request>> request =
      parts_.admission->Admit(ToSpec(input), arrival_, deadline_);
  absl::Status status = request.status();
  std::optional<absl::Duration> retry;
  Completion refused;
  if (status.ok()) {
    request_id_ = (*request)->id;
    refused.prompt_tokens = static_cast<int32_t>((*request)->prompt.size());
    if (input.response().prompt_token_ids()) prompt_ = (*request)->prompt;
    (*request)->sink = std::move(sink);
    status = parts_.engine->Submit(*request);
    if (absl::IsResourceExhausted(status)) retry = parts_.engine->RetryDelay();
  }
  if (status.ok()) return grpc::Status::OK;
  parts_.metrics->AdmissionRejected(absl::AsciiStrToLower(NameOfCode(status)));
  refused.total = absl::Now() - arrival_;
  Count(status, refused);
  return ToGrpc(status, retry);
}

void Generation::Cancel() { parts_.engine->Cancel(request_id_); }

grpc::Status Generation::End(const Completion& completion) {
  absl::Status status = completion.status;
  // gRPC cancels a call whose deadline is over, so both can come first.
  if (absl::IsCancelled(status) && absl::Now() >= deadline_) {
    status = absl::DeadlineExceededError("the call's deadline is over");
  }
  Count(status, completion);
  return ToGrpc(status);
}

void Generation::Count(const absl::Status& status, const Completion& c) {
  const char* reason = c.reason ? NameOf(*c.reason) : "";
  parts_.metrics->RequestEnded(NameOfCode(status), reason, c.total);
  nlohmann::json line = {{"request_id", request_id_},
                         {"code", NameOfCode(status)},
                         {"finish_reason", reason},
                         {"prompt_tokens", c.prompt_tokens},
                         {"cached_tokens", c.cached_tokens},
                         {"new_tokens", c.new_tokens},
                         {"queue_ms", Milliseconds(c.queue)},
                         {"prefill_ms", Milliseconds(c.prefill)},
                         {"decode_ms", Milliseconds(c.decode)},
                         {"total_ms", Milliseconds(c.total)}};
  for (auto [phase, name, stats] :
       {std::tuple(Phase::kPrefill, "prefill_support", &c.prefill_attention),
        std::tuple(Phase::kDecode, "decode_support", &c.decode_attention)}) {
    if (stats->keys_considered == 0) continue;
    parts_.metrics->RequestSparsity(
        phase, 1 - static_cast<double>(stats->support) / stats->keys_considered);
    if (stats->rows > 0) line[name] = static_cast<double>(stats->entmax_support) / stats->rows;
  }
  if (!status.ok()) line["message"] = std::string(status.message());
  LogInfo("request_end", std::move(line));
}

}  // namespace tauserve
