// The requests of a run. The i-th is the same for the same settings, whenever it is sent.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_WORKLOAD_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_WORKLOAD_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "clients/cpp/bench/settings.h"
#include "clients/cpp/prompt_file.h"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::bench {

enum class Draw : uint32_t;  // what numbers are drawn for

class Workload {
 public:
  // What prompts are made of.
  struct Source {
    std::vector<client::Prompt> prompts;    // taken in turn; or
    std::vector<uint32_t> corpus;           // tokens of a text; or
    std::vector<uint32_t> excluded_tokens;  // none of these among random ones
    uint32_t vocab_size = 0;
    uint32_t max_context_tokens = 0;
  };

  // InvalidArgument, with the lengths, if requests would not fit the context, or there are no tokens
  // to make prompts of. Lengths without a bound are cut to what fits.
  static absl::StatusOr<Workload> Make(const Settings& settings, Source source);

  v1::GenerateStreamRequest Request(uint64_t index) const;

 private:
  Workload(const Settings& settings, Source source);

  void AddTokens(Draw what, uint64_t index, uint32_t count, v1::TokenIds& ids) const;

  Settings settings_;
  Source source_;
};

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_WORKLOAD_H_
