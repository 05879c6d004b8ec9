// Attention over a paged cache of one layer: what PagedKvCache calls.
#ifndef TAUSERVE_KERNELS_PYTHON_ENGINE_H_
#define TAUSERVE_KERNELS_PYTHON_ENGINE_H_

#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/python/arrays.h"

namespace tauserve::python {

// A cache and the backend that owns it. Not for use by several threads at once.
class Engine {
 public:
  Engine(int num_pages, int num_kv_heads, int head_dim, DataType type, int num_threads);

  int num_pages() const { return num_pages_; }
  int num_kv_heads() const { return num_kv_heads_; }
  int head_dim() const { return head_dim_; }
  DataType type() const { return type_; }
  int num_threads() const { return num_threads_; }

  void Append(absl::Span<const SequenceSlice> slices, Matrix keys, Matrix values);
  AttentionStats Attend(absl::Span<const SequenceSlice> slices, const AttentionSpec& spec, Matrix q,
                        Matrix out);

 private:
  void Finish();  // throws what the device failed with

  int num_pages_, num_kv_heads_, head_dim_, num_threads_;
  DataType type_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace tauserve::python

#endif  // TAUSERVE_KERNELS_PYTHON_ENGINE_H_
