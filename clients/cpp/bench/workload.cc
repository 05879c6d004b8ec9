#include "clients/cpp/bench/workload.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve::bench {

// Each has a sequence of its own.
enum class Draw : uint32_t { kLengths, kPrompt, kPrefix };

namespace {

std::mt19937_64 Random(uint64_t seed, Draw what, uint64_t index) {
  std::seed_seq sequence{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                         static_cast<uint32_t>(what), static_cast<uint32_t>(index),
                         static_cast<uint32_t>(index >> 32)};
  return std::mt19937_64(sequence);
}

}  // namespace

absl::StatusOr<Workload> Workload::Make(const Settings& settings, Source source) {
  const uint64_t prompt = source.prompts.empty() ? uint64_t{settings.prefix_tokens} +
                                                       settings.prompt_tokens.largest().value_or(1)
                                                 : 1;
  const uint64_t output = settings.output_tokens.largest().value_or(1);
  if (prompt + output > source.max_context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompts of up to ", prompt, " tokens and outputs of up to ", output,
        " are more than the model's context of ", source.max_context_tokens, " tokens"));
  }
  if (source.prompts.empty() && !settings.text_file.empty() && source.corpus.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(settings.text_file, ": has no tokens"));
  }
  std::erase_if(source.excluded_tokens, [&](uint32_t id) { return id >= source.vocab_size; });
  std::sort(source.excluded_tokens.begin(), source.excluded_tokens.end());
  if (source.prompts.empty() && source.corpus.empty() &&
      source.vocab_size <= source.excluded_tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no tokens to make prompts of: the vocabulary has ", source.vocab_size));
  }
  return Workload(settings, std::move(source));
}

Workload::Workload(const Settings& settings, Source source)
    : settings_(settings), source_(std::move(source)) {}

v1::GenerateStreamRequest Workload::Request(uint64_t index) const {
  v1::GenerateStreamRequest request;
  // Nobody looks at it, and it costs both sides.
  request.mutable_stream()->set_prefill_progress(false);
  v1::GenerationInput& input = *request.mutable_input();
  input = settings_.parameters;
  std::mt19937_64 random = Random(settings_.seed, Draw::kLengths, index);
  const uint32_t room = source_.max_context_tokens - settings_.prefix_tokens;
  uint32_t output = settings_.output_tokens.Sample(random, room - 1);
  if (!source_.prompts.empty()) {
    const client::Prompt& prompt = source_.prompts[index % source_.prompts.size()];
    input.set_text(prompt.text);
    output = prompt.max_new_tokens.value_or(output);
  } else {
    v1::TokenIds& ids = *input.mutable_token_ids();
    const uint32_t length = settings_.prompt_tokens.Sample(random, room - output);
    ids.mutable_ids()->Reserve(static_cast<int>(settings_.prefix_tokens + length));
    AddTokens(Draw::kPrefix, random() % settings_.num_prefixes, settings_.prefix_tokens, ids);
    AddTokens(Draw::kPrompt, index, length, ids);
  }
  input.mutable_stopping()->set_max_new_tokens(output);
  input.mutable_sampling()->set_seed(random());
  return request;
}

void Workload::AddTokens(Draw what, uint64_t index, uint32_t count, v1::TokenIds& ids) const {
  std::mt19937_64 random = Random(settings_.seed, what, index);
  const std::vector<uint32_t>& corpus = source_.corpus;
  if (!corpus.empty()) {
    const size_t start = random() % corpus.size();
    for (uint32_t i = 0; i < count; i++) ids.add_ids(corpus[(start + i) % corpus.size()]);
    return;
  }
  const std::vector<uint32_t>& excluded = source_.excluded_tokens;
  std::uniform_int_distribution<uint32_t> any(0, source_.vocab_size - 1);
  for (uint32_t i = 0; i < count;) {
    const uint32_t id = any(random);
    if (std::binary_search(excluded.begin(), excluded.end(), id)) continue;
    ids.add_ids(id);
    i++;
  }
}

}  // namespace tauserve::bench
