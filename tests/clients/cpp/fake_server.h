// An in-process server that speaks the real API on a loopback port and does what a test tells it:
// it plays a stream from a script, keeps it open until the client leaves, refuses, or is not ready.
#ifndef TAUSERVE_TESTS_CLIENTS_CPP_FAKE_SERVER_H_
#define TAUSERVE_TESTS_CLIENTS_CPP_FAKE_SERVER_H_

#include <grpcpp/server.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tauserve/inference/v1/control.grpc.pb.h"
#include "tauserve/inference/v1/inference.grpc.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

// Set before the call that it is for.
struct Script {
  std::vector<v1::GenerateStreamResponse> events;
  bool stay_open = false;  // after the events, until the call is cancelled or its deadline is over
  grpc::Status status;     // of every call; streams play their events first
  uint64_t refuse_first = 0;  // so many streams get QueueIsFull instead
};

class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  const std::string& address() const { return address_; }
  Script& script() { return script_; }
  void SetReady(bool ready);
  // As if it were killed: what is open is cut off.
  void Shutdown();

  // The last requests of each kind.
  v1::GenerateStreamRequest generate_request() const;
  uint64_t generate_count() const;  // streams that were asked for
  v1::AbortRequestsRequest abort_request() const;
  v1::DrainRequest drain_request() const;

  // Blocks until a stream that stays open has ended on the server's side as well.
  void WaitForCancel();

 private:
  class Inference;
  class Control;
  class Stream;

  Script script_;
  mutable std::mutex mutex_;
  std::condition_variable cancelled_changed_;
  bool cancelled_ = false;
  v1::GenerateStreamRequest generate_request_;
  uint64_t generate_count_ = 0;
  v1::AbortRequestsRequest abort_request_;
  v1::DrainRequest drain_request_;
  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Control> control_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// Events of a stream.
v1::GenerateStreamResponse Started(uint32_t prompt_tokens, uint32_t cached_tokens = 0);
v1::GenerateStreamResponse Progress(uint32_t processed, uint32_t total);
v1::GenerateStreamResponse Delta(const std::string& text, uint32_t num_tokens = 1);
v1::GenerateStreamResponse Finished(v1::FinishReason reason);
v1::GenerateStreamResponse Completed(uint32_t prompt_tokens, uint32_t completion_tokens);

// started, progress, two deltas ("The answer", " is 42"), finished, completed.
std::vector<v1::GenerateStreamResponse> WholeStream();

// RESOURCE_EXHAUSTED "the queue is full" with google.rpc.RetryInfo.
grpc::Status QueueIsFull(double retry_seconds);

}  // namespace tauserve::client

#endif  // TAUSERVE_TESTS_CLIENTS_CPP_FAKE_SERVER_H_
