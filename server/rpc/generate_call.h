// One generate call, from its arrival to its end: admission on a worker's thread, submission, cancellation, and the
// accounts of how it ended. The unary and the streaming call build on it.
#ifndef TAUSERVE_SERVER_RPC_GENERATE_CALL_H_
#define TAUSERVE_SERVER_RPC_GENERATE_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "server/admission/admission.h"
#include "server/engine/engine.h"
#include "server/observability/metrics.h"
#include "server/rpc/convert.h"
#include "server/rpc/worker_pool.h"

namespace tauserve {

// What calls are served with; all outlive the servers.
struct ServingParts {
  Engine* engine;
  const Admission* admission;
  Metrics* metrics;
  bool log_prompts = false;  // at level debug
};

// The engine and the reactor hold it by shared_ptr: whoever lets go last destroys it.
class GenerateCall : public ResultSink, public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(const ServingParts& parts, const grpc::CallbackServerContext& context);

  // `request` stays valid until Answer is called.
  void Start(WorkerPool& workers, const grpc::ByteBuffer* request);
  // The client is gone, or its deadline is over.
  void Cancel();
  void OnEnd(const Completion& completion) final;

 protected:
  virtual absl::Status ParseRequest(const grpc::ByteBuffer& bytes, v1::GenerationInput& input) = 0;
  // Comes exactly once, last of all, from a worker's or the engine's thread.
  virtual void Answer(const grpc::Status& status, const Completion& completion) = 0;

  const ServingParts& parts() const { return parts_; }
  const std::string& request_id() const { return request_id_; }
  const ResponseView& view() const { return view_; }
  const std::vector<int32_t>& prompt() const { return prompt_; }  // empty unless asked for

 private:
  void Admit(const grpc::ByteBuffer& bytes);
  absl::Status Submit(const v1::GenerationInput& input);
  void LogPrompt(const v1::GenerationInput& input) const;
  void Refuse(const absl::Status& status);
  void Count(const absl::Status& status, const Completion& completion);

  const ServingParts parts_;
  const absl::Time arrival_;
  const absl::Time deadline_;
  const std::optional<std::string> trace_id_;
  // Written before the engine knows the call, constant afterwards.
  std::string request_id_;
  ResponseView view_;
  std::vector<int32_t> prompt_;
  int32_t prompt_tokens_ = 0;

  std::mutex mutex_;  // guards what follows
  bool submitted_ = false;
  bool cancelled_ = false;
  bool ended_ = false;  // another request may have this one's id now
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_GENERATE_CALL_H_
