// The extension module: checks what Python hands over and runs it, without Python's lock. tauserve_kernels/__init__.py
// has the functions that users call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention_function.h"
#include "kernels/python/engine.h"
#include "kernels/python/tensor_attention.h"

namespace nb = nanobind;

namespace tauserve::python {
namespace {

using Input = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<nb::device::cpu>;
using Table = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using Tau = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

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
  AttentionSpec spec;
  spec.num_heads = heads;
  spec.num_kv_heads = kv_heads;
  spec.head_dim = head_dim;
  spec.scale = scale;
  spec.sliding_window = window;
  spec.causal = causal;
  spec.alpha = alpha;
  spec.alibi_slope = slopes;
  const absl::Status status = cpu::CheckSpec(spec);
  Require(status.ok(), std::string(status.message()));
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

Offsets ToOffsets(const std::optional<Table>& queries, const std::optional<Table>& keys) {
  Offsets offsets;
  if (!queries || !keys) return offsets;
  Require(queries->ndim() == 1 && keys->ndim() == 1, "cu_seqlens has not one dimension");
  offsets.queries.assign(queries->data(), queries->data() + queries->size());
  offsets.keys.assign(keys->data(), keys->data() + keys->size());
  return offsets;
}

AttentionInputs ToInputs(const Input& q, const Input& k, const Input& v,
                         const std::optional<Table>& cu_q, const std::optional<Table>& cu_k) {
  const size_t dims = cu_q ? 3 : 4;
  AttentionInputs in;
  in.q = ToArray(q, "q", dims);
  in.k = ToArray(k, "k", dims);
  in.v = ToArray(v, "v", dims);
  in.offsets = ToOffsets(cu_q, cu_k);
  in.Check();
  return in;
}

AttentionSpec MakeSpec(const AttentionInputs& in, const std::vector<float>& alpha,
                       const std::vector<float>& slopes, float scale, int window, bool causal) {
  return MakeSpec(static_cast<int>(in.q.shape[1]), static_cast<int>(in.k.shape[1]),
                  static_cast<int>(in.q.shape.back()), alpha, slopes, scale, window, causal);
}

// Thresholds of all rows of q.
float* TauOf(const Tau& tau, const Array& q) {
  const bool packed = q.shape.size() == 3;
  const std::vector<int64_t> shape = packed
                                         ? std::vector<int64_t>{q.shape[1], q.shape[0]}
                                         : std::vector<int64_t>{q.shape[0], q.shape[1], q.shape[2]};
  bool fits = tau.ndim() == shape.size();
  for (size_t d = 0; fits && d < shape.size(); d++) {
    fits = static_cast<int64_t>(tau.shape(d)) == shape[d];
  }
  Require(fits, "tau is not of q's rows");
  return tau.data();
}

template <typename NdArray>
Array ToArrayLike(const Array& like, const NdArray& from, const char* name, const char* like_name) {
  const Array array = ToArray(from, name, like.shape.size());
  Require(array.shape == like.shape, absl::StrCat(name, " is not shaped as ", like_name));
  return array;
}

nb::dict Attention(const Input& q, const Input& k, const Input& v, const Output& out_in,
                   const std::optional<Tau>& tau_in, const std::optional<Table>& cu_q,
                   const std::optional<Table>& cu_k, const std::vector<float>& alpha,
                   const std::vector<float>& slopes, float scale, int window, bool causal,
                   int threads) {
  const AttentionInputs in = ToInputs(q, k, v, cu_q, cu_k);
  const Array out = ToArrayLike(in.q, out_in, "out", "q");
  float* tau = tau_in ? TauOf(*tau_in, in.q) : nullptr;
  const AttentionSpec spec = MakeSpec(in, alpha, slopes, scale, window, causal);
  AttentionStats stats;
  {
    nb::gil_scoped_release release;
    stats = Attend(in, spec, threads, out, tau);
  }
  return ToDict(stats);
}

void AttentionBackward(const Input& dout_in, const Input& q, const Input& k, const Input& v,
                       const Tau& tau_in, const Output& dq_out, const Output& dk_out,
                       const Output& dv_out, const std::optional<Table>& cu_q,
                       const std::optional<Table>& cu_k, const std::vector<float>& alpha,
                       const std::vector<float>& slopes, float scale, int window, bool causal,
                       int threads) {
  const AttentionInputs in = ToInputs(q, k, v, cu_q, cu_k);
  const Array dout = ToArrayLike(in.q, dout_in, "the output's gradient", "q"),
              dq = ToArrayLike(in.q, dq_out, "dq", "q"), dk = ToArrayLike(in.k, dk_out, "dk", "k"),
              dv = ToArrayLike(in.v, dv_out, "dv", "v");
  float* tau = TauOf(tau_in, in.q);
  const AttentionSpec spec = MakeSpec(in, alpha, slopes, scale, window, causal);
  nb::gil_scoped_release release;
  AttendBackward(in, spec, threads, dout, tau, dq, dk, dv);
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
  m.def("attention", &tauserve::python::Attention, nb::arg("q"), nb::arg("k"), nb::arg("v"),
        nb::arg("out"), nb::arg("tau").none(), nb::arg("cu_seqlens_q").none(),
        nb::arg("cu_seqlens_k").none(), nb::arg("alpha"), nb::arg("slopes"), nb::arg("scale"),
        nb::arg("window"), nb::arg("causal"), nb::arg("threads"));
  m.def("attention_backward", &tauserve::python::AttentionBackward, nb::arg("dout"), nb::arg("q"),
        nb::arg("k"), nb::arg("v"), nb::arg("tau"), nb::arg("dq"), nb::arg("dk"), nb::arg("dv"),
        nb::arg("cu_seqlens_q").none(), nb::arg("cu_seqlens_k").none(), nb::arg("alpha"),
        nb::arg("slopes"), nb::arg("scale"), nb::arg("window"), nb::arg("causal"),
        nb::arg("threads"));
  nb::class_<PagedKvCache>(m, "PagedKvCache")
      .def(nb::init<int, int, int, const std::string&, int>())
      .def_prop_ro("num_pages", &PagedKvCache::num_pages)
      .def_prop_ro("num_kv_heads", &PagedKvCache::num_kv_heads)
      .def_prop_ro("head_dim", &PagedKvCache::head_dim)
      .def("append", &PagedKvCache::Append)
      .def("decode", &PagedKvCache::Decode);
}
