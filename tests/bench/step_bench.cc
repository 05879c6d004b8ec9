// Times a model's steps on a device, the engine and the sampler left out: prefill in chunks, then decode steps of a batch.
// One line of JSON for each shape:
//   step_bench MODEL_DIR DEVICE CONTEXT BATCH [CONTEXT BATCH ...]
// All sequences of a batch are prefilled with CONTEXT random tokens; where the cache is too small for them, the shape is
// left out.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "server/model/transformer.h"
#include "tests/server/model/sequence_runner.h"

namespace tauserve {
namespace {

constexpr int kChunk = 2048;
constexpr int kSteps = 32;

double Microseconds(const std::chrono::steady_clock::time_point& since) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - since)
      .count();
}

nlohmann::ordered_json RunShape(LanguageModel& model, const std::string& device, int context,
                                int batch) {
  SequenceRunner runner(&model, 1);
  std::mt19937 random(context + batch);
  const auto any_token = [&] { return static_cast<int32_t>(random() % model.info().vocab_size); };
  double prefill = 0;
  for (int sequence = 0; sequence < batch; sequence++) {
    std::vector<int32_t> tokens(context);
    for (int32_t& token : tokens) token = any_token();
    for (int begin = 0; begin < context; begin += kChunk) {
      const int end = std::min(begin + kChunk, context);
      const auto start = std::chrono::steady_clock::now();
      runner.Step({{sequence, {tokens.begin() + begin, tokens.begin() + end}}}, {end - begin - 1});
      prefill += Microseconds(start);
    }
  }
  std::vector<int32_t> rows;
  for (int row = 0; row < batch; row++) rows.push_back(row);
  std::vector<double> steps;
  for (int step = 0; step < kSteps; step++) {
    std::vector<SequenceRunner::Piece> pieces;
    for (int sequence = 0; sequence < batch; sequence++)
      pieces.push_back({sequence, {any_token()}});
    const auto start = std::chrono::steady_clock::now();
    runner.Step(pieces, rows);
    steps.push_back(Microseconds(start));
  }
  std::sort(steps.begin(), steps.end());
  return {{"model", model.info().name},
          {"device", device},
          {"context", context},
          {"batch", batch},
          {"prefill_tokens_per_second", 1e6 * context * batch / prefill},
          {"decode_step_us", steps[kSteps / 2]},
          {"decode_step_min_us", steps[0]},
          {"decode_tokens_per_second", 1e6 * batch / steps[kSteps / 2]}};
}

int Main(int argc, char** argv) {
  if (argc < 5 || argc % 2 == 0) {
    std::cerr << "usage: step_bench MODEL_DIR DEVICE CONTEXT BATCH [CONTEXT BATCH ...]\n";
    return 2;
  }
  BackendOptions options;
  options.device = argv[2];
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  if (!backend.ok()) {
    std::cerr << backend.status() << "\n";
    return 1;
  }
  ModelOptions model_options;
  model_options.max_batched_tokens = kChunk;
  const auto model = LoadModel(argv[1], backend->get(), model_options);
  if (!model.ok()) {
    std::cerr << model.status() << "\n";
    return 1;
  }
  for (int i = 3; i + 1 < argc; i += 2) {
    const int context = std::atoi(argv[i]), batch = std::atoi(argv[i + 1]);
    const int64_t pages = (context + kSteps + kPageTokens - 1) / kPageTokens;
    if (context < 1 || batch < 1 || pages * batch > (*model)->num_pages()) continue;
    std::cout << RunShape(**model, (*backend)->device().name, context, batch).dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) { return tauserve::Main(argc, argv); }
