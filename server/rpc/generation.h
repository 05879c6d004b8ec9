// One generate call, from its arrival to its end: admission, submission, and the accounts of how it ended. Both the
// unary and the streaming call have one.
#ifndef TAUSERVE_SERVER_RPC_GENERATION_H_
#define TAUSERVE_SERVER_RPC_GENERATION_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <string>
#include <vector>

#include "server/admission/admission.h"
#include "server/engine/engine.h"
#include "server/observability/metrics.h"
#include "server/rpc/convert.h"

namespace tauserve {

// What calls are served with; all outlive the servers.
struct ServingParts {
  Engine* engine;
  const Admission* admission;
  Metrics* metrics;
};

class Generation {
 public:
  Generation(const ServingParts& parts, const grpc::CallbackServerContext& context);

  // Admits the request and hands it to the engine; results go to `sink`. If it is refused the call has ended with the
  // returned status and the sink is never used.
  grpc::Status Start(const v1::GenerationInput& input, std::shared_ptr<ResultSink> sink);
  // The client is gone, or its deadline is over.
  void Cancel();
  // The engine's last word; returns the call's status.
  grpc::Status End(const Completion& completion);

  const std::string& request_id() const { return request_id_; }
  const std::vector<int32_t>& prompt() const { return prompt_; }  // empty unless asked for

 private:
  void Count(const absl::Status& status, const Completion& completion);

  ServingParts parts_;
  absl::Time arrival_;
  absl::Time deadline_;
  std::string request_id_;
  std::vector<int32_t> prompt_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_GENERATION_H_
