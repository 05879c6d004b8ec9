#include "kernels/python/engine.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tauserve::python {

Engine::Engine(int num_pages, int num_kv_heads, int head_dim, DataType type, int num_threads)
    : num_pages_(num_pages),
      num_kv_heads_(num_kv_heads),
      head_dim_(head_dim),
      num_threads_(num_threads),
      type_(type) {
  Require(head_dim % 16 == 0 && head_dim >= 32 && head_dim <= 256,
          absl::StrCat("head_dim is ", head_dim, ", not a multiple of 16 in [32, 256]"));
  BackendOptions options;
  options.device = "cpu";
  options.threads = num_threads;
  options.kv_type = type;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateBackend(options);
  Require(backend.ok(), std::string(backend.status().message()));
  backend_ = *std::move(backend);
  const absl::Status status = backend_->CreateKvCache({1, num_kv_heads, head_dim, num_pages});
  Require(status.ok(), std::string(status.message()));
}

void Engine::Append(absl::Span<const SequenceSlice> slices, Matrix keys, Matrix values) {
  backend_->BeginStep(slices);
  backend_->AppendKv(0, keys, values);
  Finish();
}

void Engine::Finish() {
  const absl::Status status = backend_->Synchronize();
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

AttentionStats Engine::Attend(absl::Span<const SequenceSlice> slices, const AttentionSpec& spec,
                              Matrix q, Matrix out) {
  backend_->BeginStep(slices);
  backend_->Attention(0, spec, q, {}, out);
  Finish();
  AttentionStats stats;
  for (const AttentionStats& s : backend_->stats()) stats.Add(s);
  return stats;
}

}  // namespace tauserve::python
