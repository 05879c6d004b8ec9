// Times a model's steps on a device, the engine and the sampler left out: prefill in chunks, then decode steps of a batch.
// One line of JSON for each shape:
//   step_bench [flags] MODEL_DIR DEVICE CONTEXT BATCH [CONTEXT BATCH ...]
// All sequences of a batch are prefilled with CONTEXT tokens, random or of --prompts; where the cache is too small for
// them, the shape is left out. With --profile more prefills of one sequence tell what the kinds of operations take: the
// least of --profile_runs, since clocks rise only under load.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "kernels/check.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/model/transformer.h"
#include "tests/bench/timed_backend.h"
#include "tests/server/model/sequence_runner.h"

ABSL_FLAG(int, chunk, 2048, "most tokens of a prefill step");
ABSL_FLAG(int, decode_steps, 32, "decode steps; the median is reported");
ABSL_FLAG(bool, profile, false, "what linear layers, attention and the rest of prefill take");
ABSL_FLAG(int, profile_runs, 5, "prefills of --profile");
ABSL_FLAG(bool, whole_logits, false,
          "decode steps give whole rows of logits, not only the largest that greedy requests need");
ABSL_FLAG(std::string, prompts, "",
          "take the tokens from this file of prompts, JSON lines with \"prompt\"; else random");

namespace tauserve {
namespace {

using Clock = std::chrono::steady_clock;

double Seconds(const Clock::time_point& since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

// The tokens of sequences: random, or the prompts' one behind the other, from a place that differs by sequence.
class TokenSource {
 public:
  TokenSource(const std::string& model_folder, int32_t vocab_size) : vocab_size_(vocab_size) {
    const std::string path = absl::GetFlag(FLAGS_prompts);
    if (path.empty()) return;
    const auto tokenizer = LoadTokenizer(model_folder);
    TAUSERVE_CHECK(tokenizer.ok(), "--prompts needs the model's tokenizer");
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      const auto ids =
          (*tokenizer)->Encode(nlohmann::json::parse(line)["prompt"].get<std::string>(), true);
      TAUSERVE_CHECK(ids.ok(), "a prompt can't be encoded");
      starts_.push_back(text_.size());
      text_.insert(text_.end(), ids->begin(), ids->end());
    }
    TAUSERVE_CHECK(!text_.empty(), "--prompts has none");
  }

  std::vector<int32_t> Take(int sequence, int count) {
    std::vector<int32_t> tokens(count);
    const size_t start = text_.empty() ? 0 : starts_[sequence % starts_.size()];
    for (int i = 0; i < count; i++) {
      tokens[i] = text_.empty() ? Random() : text_[(start + i) % text_.size()];
    }
    return tokens;
  }
  int32_t Random() { return static_cast<int32_t>(random_() % vocab_size_); }

 private:
  int32_t vocab_size_;
  std::mt19937 random_{1};
  std::vector<int32_t> text_;
  std::vector<size_t> starts_;
};

struct Bench {
  TimedBackend* backend;
  LanguageModel* model;
  TokenSource* source;
  std::string device;
};

// Seconds; attention's counts are added to `stats`.
double Prefill(SequenceRunner& runner, int sequence, const std::vector<int32_t>& tokens,
               AttentionStats& stats) {
  const size_t chunk = absl::GetFlag(FLAGS_chunk);
  double seconds = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const size_t end = std::min(begin + chunk, tokens.size());
    const auto start = Clock::now();
    const StepOutput output =
        runner.Step({{sequence, {tokens.begin() + begin, tokens.begin() + end}}},
                    {static_cast<int32_t>(end - begin - 1)});
    seconds += Seconds(start);
    stats.Add(output.stats[0]);
  }
  return seconds;
}

nlohmann::ordered_json Profile(Bench& bench, SequenceRunner& runner, int context) {
  AttentionStats stats;
  const std::vector<int32_t> tokens = bench.source->Take(0, context);
  TimedBackend::Times least;
  for (int run = 0; run < absl::GetFlag(FLAGS_profile_runs); run++) {
    runner.Release(0);
    bench.backend->Start();
    Prefill(runner, 0, tokens, stats);
    const TimedBackend::Times times = bench.backend->Stop();
    if (run == 0) least = times;
    least.linear = std::min(least.linear, times.linear);
    least.attention = std::min(least.attention, times.attention);
    least.other = std::min(least.other, times.other);
  }
  return {{"linear_ms", 1e3 * least.linear},
          {"attention_ms", 1e3 * least.attention},
          {"other_ms", 1e3 * least.other},
          {"linear_tflops", least.linear_flops / least.linear / 1e12}};
}

nlohmann::ordered_json RunShape(Bench& bench, int context, int batch) {
  SequenceRunner runner(bench.model, 1);
  double prefill = 0;
  AttentionStats stats, decode_stats;
  for (int sequence = 0; sequence < batch; sequence++) {
    prefill += Prefill(runner, sequence, bench.source->Take(sequence, context), stats);
  }
  std::vector<int32_t> rows;
  for (int row = 0; row < batch; row++) rows.push_back(row);
  std::vector<LogitsQuery> queries(batch);
  for (LogitsQuery& query : queries) query.whole = absl::GetFlag(FLAGS_whole_logits);
  std::vector<double> steps;
  for (int step = 0; step < absl::GetFlag(FLAGS_decode_steps); step++) {
    std::vector<SequenceRunner::Piece> pieces;
    for (int sequence = 0; sequence < batch; sequence++) {
      pieces.push_back({sequence, {bench.source->Random()}});
    }
    const auto start = Clock::now();
    const StepOutput output = runner.Step(pieces, rows, queries);
    steps.push_back(1e6 * Seconds(start));
    for (const AttentionStats& s : output.stats) decode_stats.Add(s);
  }
  std::sort(steps.begin(), steps.end());
  nlohmann::ordered_json result = {
      {"model", bench.model->info().name},
      {"device", bench.device},
      {"context", context},
      {"batch", batch},
      {"chunk", absl::GetFlag(FLAGS_chunk)},
      {"prefill_tokens_per_second", context * batch / prefill},
      {"decode_step_us", steps[steps.size() / 2]},
      {"decode_step_min_us", steps[0]},
      {"decode_tokens_per_second", 1e6 * batch / steps[steps.size() / 2]},
      {"prefill_support", stats.rows ? static_cast<double>(stats.support) / stats.rows : 0},
      {"prefill_wide_rows", stats.rows ? static_cast<double>(stats.wide_rows) / stats.rows : 0},
      {"decode_support",
       decode_stats.rows ? static_cast<double>(decode_stats.support) / decode_stats.rows : 0},
      {"linear_weights", bench.backend->linear_weights()}};
  if (absl::GetFlag(FLAGS_profile)) result["profile"] = Profile(bench, runner, context);
  return result;
}

int Main(const std::vector<char*>& arguments) {
  const int count = static_cast<int>(arguments.size());
  if (count < 5 || count % 2 == 0) {
    std::cerr << "usage: step_bench [flags] MODEL_DIR DEVICE CONTEXT BATCH [CONTEXT BATCH ...]\n";
    return 2;
  }
  BackendOptions options;
  options.device = arguments[2];
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  if (!backend.ok()) {
    std::cerr << backend.status() << "\n";
    return 1;
  }
  TimedBackend timed(*std::move(backend));
  ModelOptions model_options;
  model_options.max_batched_tokens = absl::GetFlag(FLAGS_chunk);
  const auto model = LoadModel(arguments[1], &timed, model_options);
  if (!model.ok()) {
    std::cerr << model.status() << "\n";
    return 1;
  }
  TokenSource source(arguments[1], (*model)->info().vocab_size);
  Bench bench{&timed, model->get(), &source, timed.device().name};
  for (int i = 3; i + 1 < count; i += 2) {
    const int context = std::atoi(arguments[i]), batch = std::atoi(arguments[i + 1]);
    const int64_t pages =
        (context + absl::GetFlag(FLAGS_decode_steps) + kPageTokens - 1) / kPageTokens;
    if (context < 1 || batch < 1 || pages * batch > (*model)->num_pages()) continue;
    std::cout << RunShape(bench, context, batch).dump() << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace tauserve

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("times a model's steps on a device");
  return tauserve::Main(absl::ParseCommandLine(argc, argv));
}
