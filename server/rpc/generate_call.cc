#include "server/rpc/generate_call.h"

#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/time/clock.h"
#include "server/admission/validate.h"
#include "server/observability/logs.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/trace_context.h"

namespace tauserve {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

std::optional<std::string> TraceIdOfCall(const grpc::CallbackServerContext& context) {
  const auto [begin, end] = context.client_metadata().equal_range("traceparent");
  if (begin == end || std::next(begin) != end) return std::nullopt;  // several are none
  return TraceIdOf(absl::string_view(begin->second.data(), begin->second.size()));
}

std::string NameOfCode(const absl::Status& status) {
  return absl::StatusCodeToString(status.code());
}

double Milliseconds(absl::Duration d) { return absl::ToDoubleMilliseconds(d); }

}  // namespace

GenerateCall::GenerateCall(const ServingParts& parts, const grpc::CallbackServerContext& context)
    : parts_(parts),
      arrival_(absl::Now()),
      deadline_(DeadlineOf(context)),
      trace_id_(TraceIdOfCall(context)) {}

void GenerateCall::Start(WorkerPool& workers, const grpc::ByteBuffer* request) {
  const absl::Status queued =
      workers.Run([self = shared_from_this(), request] { self->Admit(*request); });
  if (!queued.ok()) Refuse(queued);
}

void GenerateCall::Admit(const grpc::ByteBuffer& bytes) {
  bool cancelled;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled = cancelled_;
  }
  v1::GenerationInput input;
  absl::Status status =
      cancelled ? absl::CancelledError("cancelled by the client") : ParseRequest(bytes, input);
  if (status.ok()) status = Submit(input);
  if (!status.ok()) return Refuse(status);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    submitted_ = true;
    cancelled = cancelled_ && !ended_;
  }
  if (cancelled) parts_.engine->Cancel(request_id_);
}

absl::Status GenerateCall::Submit(const v1::GenerationInput& input) {
  request_id_ = input.request_id().substr(0, kMaxRequestIdBytes);  // for the log, if it is refused
  absl::StatusOr<std::shared_ptr<Request>> request =
      parts_.admission->Admit(ToSpec(input), arrival_, deadline_);
  if (!request.ok()) return request.status();
  request_id_ = (*request)->id;
  if (parts_.log_prompts) LogPrompt(input);
  view_ = ToView(input.response());
  prompt_tokens_ = static_cast<int32_t>((*request)->prompt.size());
  if (view_.prompt_token_ids) prompt_ = (*request)->prompt;
  (*request)->sink = shared_from_this();
  return parts_.engine->Submit(*request);
}

void GenerateCall::LogPrompt(const v1::GenerationInput& input) const {
  nlohmann::json line = {{"request_id", request_id_}};
  if (input.has_token_ids()) {
    line["token_ids"] =
        std::vector<uint32_t>(input.token_ids().ids().begin(), input.token_ids().ids().end());
  } else if (input.has_chat()) {
    for (const v1::ChatMessage& message : input.chat().messages()) {
      line["chat"].push_back({{"role", message.role()}, {"content", message.content()}});
    }
  } else {
    line["text"] = input.text();
  }
  LogDebug("prompt", std::move(line));
}

void GenerateCall::Refuse(const absl::Status& status) {
  std::optional<absl::Duration> retry;
  if (absl::IsResourceExhausted(status)) retry = parts_.engine->RetryDelay();
  if (!absl::IsCancelled(status)) {
    parts_.metrics->AdmissionRejected(absl::AsciiStrToLower(NameOfCode(status)));
  }
  Completion refused;
  refused.status = status;
  refused.prompt_tokens = prompt_tokens_;
  refused.total = absl::Now() - arrival_;
  Count(status, refused);
  Answer(ToGrpc(status, retry), refused);
}

void GenerateCall::Cancel() {
  bool cancel;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    cancel = submitted_ && !ended_;
  }
  if (cancel) parts_.engine->Cancel(request_id_);
}

void GenerateCall::OnEnd(const Completion& completion) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  absl::Status status = completion.status;
  // gRPC cancels a call whose deadline is over, and so does the client, whose clock is ahead by the way to here and by
  // the rounding of the timeout on the wire (up to 1 %).
  const absl::Duration ahead = absl::Milliseconds(20) + (deadline_ - arrival_) / 100;
  if (absl::IsCancelled(status) && deadline_ != absl::InfiniteFuture() &&
      absl::Now() + ahead >= deadline_) {
    status = absl::DeadlineExceededError("the call's deadline is over");
  }
  Count(status, completion);
  Answer(ToGrpc(status), completion);
}

void GenerateCall::Count(const absl::Status& status, const Completion& c) {
  const char* reason = c.reason ? NameOf(*c.reason) : "";
  parts_.metrics->RequestEnded(NameOfCode(status), reason, c.total);
  nlohmann::json line = {{"request_id", request_id_},
                         {"code", NameOfCode(status)},
                         {"finish_reason", reason},
                         {"prompt_tokens", c.prompt_tokens},
                         {"cached_tokens", c.cached_tokens},
                         {"new_tokens", c.new_tokens},
                         {"preemptions", c.preemptions},
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
  if (trace_id_) line["trace_id"] = *trace_id_;
  if (!status.ok()) line["message"] = std::string(status.message());
  LogInfo("request_end", std::move(line));
}

}  // namespace tauserve
