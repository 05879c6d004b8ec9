// Between protobuf messages and the server's own types.
#ifndef TAUSERVE_SERVER_RPC_CONVERT_H_
#define TAUSERVE_SERVER_RPC_CONVERT_H_

#include <google/protobuf/duration.pb.h>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/admission/generation_spec.h"
#include "server/request/request.h"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve {

namespace v1 = inference::v1;

// What the client wants to see of a generation.
struct ResponseView {
  bool text = true;
  bool token_ids = false;
  bool prompt_token_ids = false;
  bool prompt_logprobs = false;
};

GenerationSpec ToSpec(const v1::GenerationInput& input);
ChatPrompt ToPrompt(const v1::ChatPrompt& chat);
ResponseView ToView(const v1::ResponseOptions& options);
absl::Duration ToAbsl(const google::protobuf::Duration& d);
google::protobuf::Duration ToProto(absl::Duration d);

v1::FinishReason ToProto(FinishReason reason);
v1::TokenLogprob ToProto(const TokenLogprob& logprob);
v1::SamplingParameters ToProto(const SamplingParams& params);
v1::CandidateFinished ToProto(const Finish& finish);
v1::Usage ToUsage(const Completion& completion);
v1::Timings ToTimings(const Completion& completion);
v1::AttentionStats ToAttention(const Completion& completion);

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_CONVERT_H_
