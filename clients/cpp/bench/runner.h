// Sends the requests of a run and notes what comes back. One thread waits for the time of the next
// request; what the server sends is noted by gRPC's own threads as it comes, so a stream costs
// memory, but no thread.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_RUNNER_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_RUNNER_H_

#include <grpcpp/client_context.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "clients/cpp/bench/cpu_usage.h"
#include "clients/cpp/bench/pacer.h"
#include "clients/cpp/bench/record.h"
#include "clients/cpp/bench/workload.h"
#include "clients/cpp/client.h"

namespace tauserve::bench {

struct RunProgress {
  double seconds = 0;
  uint64_t done = 0;  // failed ones too
  uint64_t failed = 0;
  uint64_t in_flight = 0;
  uint64_t output_tokens = 0;
};

struct RunResult {
  std::vector<RequestRecord> records;  // in the order of their ends
  double seconds = 0;                  // from the start to the last end
  CpuUsage cpu;                        // from the start to the end of the run
  bool lost = false;                   // it gave up, because no server was there
};

class Runner {
 public:
  struct Options {
    std::string address;
    client::Credentials credentials;
    std::optional<client::Client::Duration> timeout;  // of each call
    uint32_t connections = 1;
    uint32_t retries = 0;
    uint32_t give_up_after = 0;  // calls in a row that ended with UNAVAILABLE; 0: never
  };
  using Show = std::function<void(const RunProgress&)>;

  explicit Runner(Options options);
  ~Runner();

  // So that no request pays for a connection. UNAVAILABLE if one can't be made within `patience`.
  grpc::Status Connect(std::chrono::milliseconds patience);

  // Request i of the pacer is number `first_index` + i of the workload. `show` may be empty; it is
  // called a few times a second.
  RunResult Run(Pacer pacer, const Workload& workload, uint64_t first_index, const Show& show);

  // Ends the run, and its calls under way, from any thread; later runs end at once. Returns whether
  // there is one.
  bool Interrupt();
  bool interrupted();

 private:
  class Stream;
  class Session;  // one Run

  using Clock = std::chrono::steady_clock;

  double Now() const;
  void OnStreamDone(Stream* stream);

  const Options options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<v1::InferenceService::Stub>> stubs_;
  Clock::time_point start_;
  std::atomic<uint64_t> output_tokens_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool running_ = false;
  bool interrupted_ = false;
  std::unordered_set<Stream*> streams_;            // under way
  std::vector<std::unique_ptr<Stream>> finished_;  // not seen by Run yet
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_RUNNER_H_
