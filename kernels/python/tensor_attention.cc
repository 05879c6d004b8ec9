#include "kernels/python/tensor_attention.h"

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/cpu/attention_function.h"

namespace tauserve::python {
namespace {

using cpu::AttentionFunction;
using cpu::AttentionSequence;
using cpu::HeadRows;

// The one of the last call, for calls like it: its memory is warm.
std::mutex mutex;
std::unique_ptr<AttentionFunction> last;
int last_threads = 0;

AttentionFunction& FunctionFor(int threads, DataType kv_type) {
  if (!last || last_threads != threads || last->kv_type() != kv_type) {
    last.reset();
    absl::StatusOr<std::unique_ptr<AttentionFunction>> made =
        AttentionFunction::Create(threads, kv_type);
    Require(made.ok(), std::string(made.status().message()));
    last = *std::move(made);
    last_threads = threads;
  }
  return *last;
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  Require(status.code() != absl::StatusCode::kInvalidArgument, std::string(status.message()));
  throw std::runtime_error(std::string(status.message()));
}

std::string ShapeOf(const Array& array) {
  return absl::StrCat("[", absl::StrJoin(array.shape, ", "), "]");
}

void CheckOffsets(const std::vector<int32_t>& offsets, int64_t tokens, const char* name) {
  Require(offsets.size() >= 2 && offsets.front() == 0 && offsets.back() == tokens,
          absl::StrCat(name, " does not go from 0 to the number of tokens, ", tokens));
  for (size_t i = 1; i < offsets.size(); i++) {
    Require(offsets[i] >= offsets[i - 1],
            absl::StrCat(name, "[", i, "] is ", offsets[i], ", less than the one before it"));
  }
}

// The rows of one sequence: of the batch, or those that begin at token `offset` of a packed array.
HeadRows RowsOf(const Array& array, int64_t sequence, int64_t offset) {
  HeadRows rows;
  float* data = static_cast<float*>(array.data);
  if (array.shape.size() == 4) {
    rows.data = data + sequence * array.stride[0];
    rows.head_stride = array.stride[1];
    rows.token_stride = array.stride[2];
  } else {
    rows.data = data + offset * array.stride[0];
    rows.token_stride = array.stride[0];
    rows.head_stride = array.stride[1];
  }
  return rows;
}

// Float32 arrays of one call; those that it does not need are null.
struct Tensors {
  const Array *q = nullptr, *k = nullptr, *v = nullptr, *out = nullptr;
  const Array *dout = nullptr, *dq = nullptr, *dk = nullptr, *dv = nullptr;
  float* tau = nullptr;
};

std::vector<AttentionSequence> SequencesOf(const Tensors& t, const Offsets& offsets) {
  const bool packed = t.q->shape.size() == 3;
  const int64_t heads = t.q->shape[1];
  const int64_t tokens = packed ? t.q->shape[0] : t.q->shape[2];
  const int64_t count = packed ? static_cast<int64_t>(offsets.queries.size()) - 1 : t.q->shape[0];
  std::vector<AttentionSequence> sequences;
  for (int64_t i = 0; i < count; i++) {
    AttentionSequence s;
    const int64_t query = packed ? offsets.queries[i] : 0, key = packed ? offsets.keys[i] : 0;
    s.queries = static_cast<int>(packed ? offsets.queries[i + 1] - query : tokens);
    s.keys = static_cast<int>(packed ? offsets.keys[i + 1] - key : t.k->shape[2]);
    if (s.queries == 0) continue;
    s.q = RowsOf(*t.q, i, query);
    s.k = RowsOf(*t.k, i, key);
    s.v = RowsOf(*t.v, i, key);
    if (t.out) s.out = RowsOf(*t.out, i, query);
    if (t.dout) {
      s.dout = RowsOf(*t.dout, i, query);
      s.dq = RowsOf(*t.dq, i, query);
      s.dk = RowsOf(*t.dk, i, key);
      s.dv = RowsOf(*t.dv, i, key);
    }
    if (t.tau) s.tau = packed ? t.tau + query : t.tau + i * heads * tokens;
    s.tau_head_stride = tokens;
    sequences.push_back(s);
  }
  return sequences;
}

}  // namespace

void AttentionInputs::Check() const {
  const size_t dims = q.shape.size();
  const int head = 1, token = dims == 4 ? 2 : 0;
  Require(k.shape == v.shape,
          absl::StrCat("k is ", ShapeOf(k), " and v ", ShapeOf(v), ": they differ in shape"));
  Require(k.type == v.type, absl::StrCat("k is ", NameOf(k.type), " and v ", NameOf(v.type)));
  Require(q.shape.back() == k.shape.back(),
          absl::StrCat("q has head_dim ", q.shape.back(), " and k ", k.shape.back()));
  Require(
      q.shape[head] % k.shape[head] == 0,
      absl::StrCat(q.shape[head], " query heads are no multiple of ", k.shape[head], " KV heads"));
  if (dims == 4) {
    Require(q.shape[0] == k.shape[0],
            absl::StrCat("q has a batch of ", q.shape[0], " and k of ", k.shape[0]));
    Require(q.shape[token] <= k.shape[token],
            absl::StrCat("there are ", q.shape[token], " queries, more than ", k.shape[token],
                         " keys"));
    return;
  }
  CheckOffsets(offsets.queries, q.shape[token], "cu_seqlens_q");
  CheckOffsets(offsets.keys, k.shape[token], "cu_seqlens_k");
  Require(offsets.queries.size() == offsets.keys.size(),
          "cu_seqlens_q and cu_seqlens_k differ in their number of sequences");
  for (size_t i = 1; i < offsets.queries.size(); i++) {
    const int queries = offsets.queries[i] - offsets.queries[i - 1];
    const int keys = offsets.keys[i] - offsets.keys[i - 1];
    Require(queries <= keys, absl::StrCat("sequence ", i - 1, " has ", queries,
                                          " queries, more than its ", keys, " keys"));
  }
}

AttentionStats Attend(const AttentionInputs& in, const AttentionSpec& spec, int threads,
                      const Array& out, float* tau) {
  std::lock_guard<std::mutex> lock(mutex);
  AttentionFunction& function = FunctionFor(threads, in.k.type);
  const Floats q(in.q), k(in.k), v(in.v);
  OutputFloats result(out);
  Tensors t;
  t.q = &q.array();
  t.k = &k.array();
  t.v = &v.array();
  t.out = &result.array();
  t.tau = tau;
  Check(function.Forward(spec, SequencesOf(t, in.offsets)));
  result.Finish();
  return function.stats();
}

void AttendBackward(const AttentionInputs& in, const AttentionSpec& spec, int threads,
                    const Array& dout_in, float* tau, const Array& dq_out, const Array& dk_out,
                    const Array& dv_out) {
  std::lock_guard<std::mutex> lock(mutex);
  AttentionFunction& function = FunctionFor(threads, in.k.type);
  const Floats q(in.q), k(in.k), v(in.v), dout(dout_in);
  OutputFloats dq(dq_out), dk(dk_out), dv(dv_out);
  Tensors t;
  t.q = &q.array();
  t.k = &k.array();
  t.v = &v.array();
  t.dout = &dout.array();
  t.dq = &dq.array();
  t.dk = &dk.array();
  t.dv = &dv.array();
  t.tau = tau;
  Check(function.Backward(spec, SequencesOf(t, in.offsets)));
  dq.Finish();
  dk.Finish();
  dv.Finish();
}

}  // namespace tauserve::python
