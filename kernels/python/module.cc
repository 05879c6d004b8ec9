// The extension module: checks what Python hands over and runs it, without Python's lock. tauserve_kernels/__init__.py
// has the functions that users call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/python/engine.h"

namespace nb = nanobind;

namespace tauserve::python {
namespace {

using Input = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;

template <typename NdArray>
Array ToArray(const NdArray& from, const char* name, size_t dims) {
  Require(from.ndim() == dims, absl::StrCat(name, " has ", from.ndim(), " dimensions, not ", dims));
  Array to;
  to.data = const_cast<void*>(static_cast<const void*>(from.data()));
  if (from.dtype() == nb::dtype<float>()) {
    to.type = DataType::kFloat32;
  } else if (from.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Bfloat) &&
             from.dtype().bits == 16) {
    to.type = DataType::kBFloat16;
  } else {
    Require(false, absl::StrCat(name, " is neither float32 nor bfloat16"));
  }
  for (size_t d = 0; d < dims; d++) {
    to.shape.push_back(static_cast<int64_t>(from.shape(d)));
    to.stride.push_back(from.stride(d));
    Require(from.shape(d) > 0, absl::StrCat(name, " is empty"));
  }
  Require(to.stride[dims - 1] == 1 || to.shape[dims - 1] == 1,
          absl::StrCat(name, "'s last dimension is not contiguous"));
  return to;
}

AttentionSpec MakeSpec(int heads, int kv_heads, int head_dim, const std::vector<float>& alpha,
                       const std::vector<float>& slopes, float scale, int window, bool causal) {
  Require(kv_heads > 0 && heads % kv_heads == 0,
          absl::StrCat(heads, " query heads are no multiple of ", kv_heads, " KV heads"));
  Require(static_cast<int>(alpha.size()) == heads, "alpha needs one number, or one a query head");
  Require(static_cast<int>(slopes.size()) == heads, "alibi_slopes needs one number a query head");
  for (float a : alpha) Require(a >= 1 && a <= 2, absl::StrCat("alpha is ", a, ", not in [1, 2]"));
  bool biased = false;
  for (float s : slopes) {
    Require(s >= 0 && std::isfinite(s), absl::StrCat("an ALiBi slope is ", s));
    biased |= s > 0;
  }
  Require(std::isfinite(scale), "scale is not finite");
  Require(window >= 0, "window is negative");
  Require(causal || (window == 0 && !biased), "window and alibi_slopes need causal attention");
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.scale = scale;
  spec.sliding_window = window;
  spec.causal = causal;
  spec.alpha = alpha;
  spec.alibi_slope = slopes;
  return spec;
}

nb::dict ToDict(const AttentionStats& s) {
  nb::dict d;
  d["rows"] = s.rows;
  d["keys_considered"] = s.keys_considered;
  d["keys_scored"] = s.keys_scored;
  d["support"] = s.support;
  d["blocks_considered"] = s.blocks_considered;
  d["blocks_scored"] = s.blocks_scored;
  d["blocks_attended"] = s.blocks_attended;
  d["tau_iterations"] = s.tau_iterations;
  d["wide_rows"] = s.wide_rows;
  d["max_tau_residual"] = s.max_tau_residual;
  return d;
}

// The engine of the last call of Attention, for calls like it: its memory is warm.
std::mutex engine_mutex;
std::unique_ptr<Engine> last_engine;

Engine& EngineFor(int64_t pages, int head_dim, DataType type, int threads) {
  Require(pages < (int64_t{1} << 24), "too many keys");
  if (!last_engine || last_engine->num_pages() < pages || last_engine->head_dim() != head_dim ||
      last_engine->type() != type || last_engine->num_threads() != threads) {
    last_engine.reset();
    last_engine = std::make_unique<Engine>(static_cast<int>(pages), 1, head_dim, type, threads);
  }
  return *last_engine;
}

// Every (batch, head) is a sequence of its own with one head, so that q, k and v are read where they lie.
AttentionStats RunAttention(const Array& q, const Array& k, const Array& v, const Array& out,
                            const AttentionSpec& heads, int threads) {
  const int64_t batch = q.shape[0], num_heads = q.shape[1], tokens = q.shape[2];
  const int64_t kv_heads = k.shape[1], kv_tokens = k.shape[2];
  const int64_t sequences = batch * kv_heads;
  const int64_t pages = (kv_tokens + kPageTokens - 1) / kPageTokens;
  Require(batch * num_heads * kv_tokens < INT32_MAX, "too many tokens");
  std::lock_guard<std::mutex> lock(engine_mutex);
  Engine& engine = EngineFor(sequences * pages, heads.head_dim, k.type, threads);
  std::vector<PageId> table(sequences * pages);
  for (size_t i = 0; i < table.size(); i++) table[i] = static_cast<PageId>(i);

  std::vector<SequenceSlice> slices;
  for (int64_t s = 0; s < sequences; s++) {
    slices.push_back({static_cast<int>(s * kv_tokens), static_cast<int>(kv_tokens), 0,
                      table.data() + s * pages});
  }
  engine.Append(slices, Rows(k, 3).matrix(), Rows(v, 3).matrix());

  const Rows queries(q, 3);
  OutputRows result(out, 3);
  AttentionStats stats;
  // Neighbouring heads of the same kind go together.
  for (int64_t first = 0, end; first < batch * num_heads; first = end) {
    AttentionSpec spec = heads;
    spec.num_heads = spec.num_kv_heads = 1;
    spec.alpha = {heads.alpha[first % num_heads]};
    spec.alibi_slope = {heads.alibi_slope[first % num_heads]};
    slices.clear();
    for (end = first; end < batch * num_heads; end++) {
      const int64_t head = end % num_heads;
      if (heads.alpha[head] != spec.alpha[0] || heads.alibi_slope[head] != spec.alibi_slope[0]) {
        break;
      }
      const int64_t sequence = end / num_heads * kv_heads + head / (num_heads / kv_heads);
      slices.push_back({static_cast<int>((end - first) * tokens), static_cast<int>(tokens),
                        static_cast<int>(kv_tokens - tokens), table.data() + sequence * pages});
    }
    auto part = [&](Matrix m) {
      m.data = static_cast<float*>(m.data) + first * tokens * m.stride;
      m.rows = (end - first) * tokens;
      return m;
    };
    stats.Add(engine.Attend(slices, spec, part(queries.matrix()), part(result.matrix())));
  }
  result.Finish();
  return stats;
}

nb::dict Attention(const Input& q_in, const Input& k_in, const Input& v_in, const Output& out_in,
                   const std::vector<float>& alpha, const std::vector<float>& slopes, float scale,
                   int window, bool causal, int threads) {
  const Array q = ToArray(q_in, "q", 4), k = ToArray(k_in, "k", 4), v = ToArray(v_in, "v", 4);
  const Array out = ToArray(out_in, "out", 4);
  Require(k.shape == v.shape, "k and v differ in shape");
  Require(k.type == v.type, "k and v differ in type");
  Require(q.shape[0] == k.shape[0], "q and k differ in their batch");
  Require(q.shape[3] == k.shape[3], "q and k differ in head_dim");
  Require(q.shape[2] <= k.shape[2], "there are more queries than keys");
  Require(q.shape == out.shape, "q and out differ in shape");
  const int head_dim = static_cast<int>(q.shape[3]);
  const AttentionSpec spec = MakeSpec(static_cast<int>(q.shape[1]), static_cast<int>(k.shape[1]),
                                      head_dim, alpha, slopes, scale, window, causal);
  AttentionStats stats;
  {
    nb::gil_scoped_release release;
    stats = RunAttention(q, k, v, out, spec, threads);
  }
  return ToDict(stats);
}

class PagedKvCache {
 public:
  PagedKvCache(int num_pages, int num_kv_heads, int head_dim, const std::string& dtype,
               int num_threads) {
    Require(num_pages > 0 && num_kv_heads > 0, "num_pages and num_kv_heads are at least 1");
    Require(dtype == "float32" || dtype == "bfloat16",
            absl::StrCat("dtype is ", dtype, ", neither float32 nor bfloat16"));
    engine_ = std::make_unique<Engine>(
        num_pages, num_kv_heads, head_dim,
        dtype == "float32" ? DataType::kFloat32 : DataType::kBFloat16, num_threads);
  }

  int num_pages() const { return engine_->num_pages(); }
  int num_kv_heads() const { return engine_->num_kv_heads(); }
  int head_dim() const { return engine_->head_dim(); }

  void Append(const Input& k_in, const Input& v_in, const Table& table, int start) {
    const Array k = ToArray(k_in, "k", 3), v = ToArray(v_in, "v", 3);
    Require(k.shape == v.shape, "k and v differ in shape");
    Require(k.shape[1] == num_kv_heads() && k.shape[2] == head_dim(),
            absl::StrCat("k is not [tokens, ", num_kv_heads(), ", ", head_dim(), "]"));
    Require(table.ndim() == 1, "block_table has not one dimension");
    Require(start >= 0, "start is negative");
    Require(start + k.shape[0] < INT32_MAX, "too many tokens");
    CheckTable(table.data(), table.shape(0), start + k.shape[0]);
    const SequenceSlice slice{0, static_cast<int>(k.shape[0]), start, table.data()};
    nb::gil_scoped_release release;
    std::lock_guard<std::mutex> lock(mutex_);
    engine_->Append({&slice, 1}, Rows(k, 1).matrix(), Rows(v, 1).matrix());
  }

  nb::dict Decode(const Input& q_in, const Output& out_in, const Table& tables,
                  const Table& lengths, const std::vector<float>& alpha,
                  const std::vector<float>& slopes, float scale, int window) {
    const Array q = ToArray(q_in, "q", 3), out = ToArray(out_in, "out", 3);
    Require(q.shape == out.shape, "q and out differ in shape");
    Require(q.shape[2] == head_dim(), "q's head_dim is not the cache's");
    Require(tables.ndim() == 2 && static_cast<int64_t>(tables.shape(0)) == q.shape[0],
            "block_tables is not [batch, pages]");
    Require(lengths.ndim() == 1 && static_cast<int64_t>(lengths.shape(0)) == q.shape[0],
            "seq_lens is not [batch]");
    const AttentionSpec spec = MakeSpec(static_cast<int>(q.shape[1]), num_kv_heads(), head_dim(),
                                        alpha, slopes, scale, window, /*causal=*/true);
    std::vector<SequenceSlice> slices;
    for (int64_t i = 0; i < q.shape[0]; i++) {
      const int32_t* table = tables.data() + i * tables.shape(1);
      const int32_t length = lengths.data()[i];
      Require(length > 0, absl::StrCat("seq_lens[", i, "] is ", length));
      CheckTable(table, tables.shape(1), length);
      slices.push_back({static_cast<int>(i), 1, length - 1, table});
    }
    AttentionStats stats;
    {
      nb::gil_scoped_release release;
      std::lock_guard<std::mutex> lock(mutex_);
      const Rows queries(q, 1);
      OutputRows result(out, 1);
      stats = engine_->Attend(slices, spec, queries.matrix(), result.matrix());
      result.Finish();
    }
    return ToDict(stats);
  }

 private:
  void CheckTable(const int32_t* table, size_t entries, int64_t tokens) const {
    const int64_t pages = (tokens + kPageTokens - 1) / kPageTokens;
    Require(pages <= static_cast<int64_t>(entries),
            absl::StrCat(tokens, " tokens need ", pages, " pages; the table has ", entries));
    for (int64_t p = 0; p < pages; p++) {
      Require(table[p] >= 0 && table[p] < num_pages(),
              absl::StrCat("page ", table[p], " is not in [0, ", num_pages(), ")"));
    }
  }

  std::unique_ptr<Engine> engine_;
  std::mutex mutex_;
};

}  // namespace
}  // namespace tauserve::python

NB_MODULE(_tauserve_kernels, m) {
  using tauserve::python::PagedKvCache;
  m.def("attention", &tauserve::python::Attention);
  nb::class_<PagedKvCache>(m, "PagedKvCache")
      .def(nb::init<int, int, int, const std::string&, int>())
      .def_prop_ro("num_pages", &PagedKvCache::num_pages)
      .def_prop_ro("num_kv_heads", &PagedKvCache::num_kv_heads)
      .def_prop_ro("head_dim", &PagedKvCache::head_dim)
      .def("append", &PagedKvCache::Append)
      .def("decode", &PagedKvCache::Decode);
}
