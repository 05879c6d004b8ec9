// What gRPC tells of a generate call, passed on to it.
#ifndef TAUSERVE_SERVER_RPC_CALL_REACTOR_H_
#define TAUSERVE_SERVER_RPC_CALL_REACTOR_H_

#include <grpcpp/support/byte_buffer.h>

#include <memory>

#include "server/rpc/hand_over.h"
#include "server/rpc/worker_pool.h"

namespace tauserve {

// `Base` is a reactor of gRPC's, `Call` a GenerateCall that finishes it. Deletes itself when gRPC is done with it.
template <typename Base, typename Call>
class CallReactor : public Base {
 public:
  // `make_call` returns the call of the reactor that it is given.
  template <typename MakeCall>
  explicit CallReactor(const MakeCall& make_call) : call_(make_call(this)) {
    PassHandOver(this);
  }
  void Start(WorkerPool& workers, const grpc::ByteBuffer* request) {
    call_->Start(workers, request);
  }
  void OnCancel() override {
    PassHandOver(this);
    call_->Cancel();
    PassHandOver(this);
  }
  void OnDone() override {
    PassHandOver(this);
    delete this;
  }

 protected:
  const std::shared_ptr<Call>& call() const { return call_; }

 private:
  const std::shared_ptr<Call> call_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_RPC_CALL_REACTOR_H_
