#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "dnnl.hpp"
#include "kernels/check.h"
#include "kernels/half.h"

namespace tauserve::cpu {
namespace {

constexpr int64_t kTileRowsMax =
    128;  // rows of one matmul: its inputs stay in the second-level cache

dnnl::memory::data_type DnnlType(DataType type) {
  return type == DataType::kBFloat16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
}

void CopyAsFloat(const HostTensor& tensor, float* out) {
  const int64_t n = tensor.size();
  if (tensor.type == DataType::kFloat32) {
    std::memcpy(out, tensor.data, n * 4);
    return;
  }
  const char* from = static_cast<const char*>(tensor.data);
  for (int64_t i = 0; i < n; i++) {
    uint16_t h;
    std::memcpy(&h, from + 2 * i, 2);
    out[i] = tensor.type == DataType::kBFloat16 ? BFloat16ToFloat(h) : Float16ToFloat(h);
  }
}

// Columns [begin, end) of the output, packed as oneDNN likes it.
struct Slice {
  int64_t begin;
  int64_t end;
  dnnl::memory weights;
};

class PackedWeight : public LinearWeight {
 public:
  int64_t in_features() const override { return in; }
  int64_t out_features() const override { return out; }

  int64_t in = 0;
  int64_t out = 0;
  std::vector<Slice> slices;
  std::vector<float> bias;  // empty, or [out]
};

// What a matmul primitive depends on, beside the types.
struct Shape {
  int64_t rows, in, columns, in_stride, out_stride;
  bool bias, add;
  auto operator<=>(const Shape&) const = default;
};

}  // namespace

struct LinearEngine::State {
  State(DataType type, const Kernels* k, ThreadPool* p)
      : compute_type(type), kernels(k), pool(p), engine(dnnl::engine::kind::cpu, 0) {
    for (int w = 0; w < p->threads(); w++) streams.emplace_back(engine);
  }

  // With `weights` a null descriptor oneDNN chooses the layout.
  dnnl::matmul::primitive_desc Describe(const Shape& s, const dnnl::memory::desc* weights) const {
    using Desc = dnnl::memory::desc;
    using Type = dnnl::memory::data_type;
    const Type type = DnnlType(compute_type);
    const Desc in({s.rows, s.in}, type, {s.in_stride, 1});
    const Desc any({s.in, s.columns}, type, dnnl::memory::format_tag::any);
    const Desc out({s.rows, s.columns}, Type::f32, {s.out_stride, 1});
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::library);
    if (s.add) {
      dnnl::post_ops ops;
      ops.append_sum(1.0f);
      attr.set_post_ops(ops);
    }
    if (s.bias) {
      const Desc bias({1, s.columns}, Type::f32, dnnl::memory::format_tag::ab);
      return {dnnl::matmul::desc(in, weights ? *weights : any, bias, out), attr, engine};
    }
    return {dnnl::matmul::desc(in, weights ? *weights : any, out), attr, engine};
  }

  // One primitive for each worker: the library's scratchpad belongs to the primitive.
  const std::vector<dnnl::matmul>& PrimitiveFor(const Shape& s, const dnnl::memory::desc& weights) {
    auto it = primitives.find(s);
    if (it == primitives.end()) {
      const dnnl::matmul::primitive_desc desc = Describe(s, &weights);
      std::vector<dnnl::matmul> all;
      for (int w = 0; w < pool->threads(); w++) all.emplace_back(desc);
      it = primitives.emplace(s, std::move(all)).first;
    }
    return it->second;
  }

  DataType compute_type;
  const Kernels* kernels;
  ThreadPool* pool;
  dnnl::engine engine;
  std::vector<dnnl::stream> streams;  // one for each worker
  std::map<Shape, std::vector<dnnl::matmul>> primitives;
  std::vector<uint16_t> converted;  // the input as bfloat16
};

LinearEngine::LinearEngine(DataType compute_type, const Kernels* kernels, ThreadPool* pool)
    : state_(std::make_unique<State>(compute_type, kernels, pool)) {}

LinearEngine::~LinearEngine() = default;

std::unique_ptr<LinearWeight> LinearEngine::Load(absl::Span<const HostTensor> weights,
                                                 absl::Span<const HostTensor> biases) {
  State& s = *state_;
  auto packed = std::make_unique<PackedWeight>();
  packed->in = weights[0].shape[1];
  for (const HostTensor& w : weights) {
    TAUSERVE_CHECK(w.shape.size() == 2 && w.shape[1] == packed->in, "stacked weights differ");
    packed->out += w.shape[0];
  }
  std::vector<float> plain(packed->out * packed->in);
  int64_t row = 0;
  for (const HostTensor& w : weights) {
    CopyAsFloat(w, plain.data() + row * packed->in);
    row += w.shape[0];
  }
  TAUSERVE_CHECK(biases.empty() || biases.size() == weights.size(), "one bias for each weight");
  if (!biases.empty()) {
    packed->bias.resize(packed->out);
    row = 0;
    for (size_t i = 0; i < biases.size(); i++) {
      TAUSERVE_CHECK(biases[i].size() == weights[i].shape[0], "bias length");
      CopyAsFloat(biases[i], packed->bias.data() + row);
      row += biases[i].size();
    }
  }
  const int64_t share = (packed->out + s.pool->threads() - 1) / s.pool->threads();
  const int64_t width = std::clamp<int64_t>((share + 63) / 64 * 64, 64, 4096);
  for (int64_t begin = 0; begin < packed->out; begin += width) {
    const int64_t columns = std::min(width, packed->out - begin);
    const Shape shape{kTileRowsMax, packed->in, columns, packed->in, columns, false, false};
    const auto desc = s.Describe(shape, nullptr);
    dnnl::memory to(desc.weights_desc(), s.engine);
    // The checkpoint's rows are output columns: [columns, in] read as [in, columns].
    const dnnl::memory::desc plain_desc({packed->in, columns}, dnnl::memory::data_type::f32,
                                        {1, packed->in});
    dnnl::memory from(plain_desc, s.engine, plain.data() + begin * packed->in);
    dnnl::reorder(from, to).execute(s.streams[0], from, to);
    s.streams[0].wait();
    packed->slices.push_back({begin, begin + columns, std::move(to)});
  }
  return packed;
}

void LinearEngine::Run(const LinearWeight& weight, Matrix in, Matrix out, bool add) {
  State& s = *state_;
  const auto& w = static_cast<const PackedWeight&>(weight);
  TAUSERVE_CHECK(in.cols == w.in && out.cols == w.out && in.rows == out.rows, "linear shapes");
  if (in.rows == 0) return;
  const bool convert = s.compute_type == DataType::kBFloat16;
  if (convert) {
    if (s.converted.size() < size_t(in.rows * in.cols)) s.converted.resize(in.rows * in.cols);
    const float* from = static_cast<const float*>(in.data);
    constexpr int64_t kRows = 16;
    s.pool->ParallelFor((in.rows + kRows - 1) / kRows, [&](int64_t i, int) {
      for (int64_t r = i * kRows; r < std::min(in.rows, (i + 1) * kRows); r++) {
        s.kernels->to_bf16(from + r * in.stride, in.cols, s.converted.data() + r * in.cols);
      }
    });
  }
  const int64_t in_stride = convert ? in.cols : in.stride;
  const int64_t in_bytes = in_stride * static_cast<int64_t>(SizeOf(s.compute_type));
  char* const in_data =
      convert ? reinterpret_cast<char*>(s.converted.data()) : static_cast<char*>(in.data);

  struct Job {
    const Slice* slice;
    const std::vector<dnnl::matmul>* primitives;
    int64_t row;
    Shape shape;
  };
  std::vector<Job> jobs;
  for (int64_t row = 0; row < in.rows; row += kTileRowsMax) {
    const int64_t rows = std::min(kTileRowsMax, in.rows - row);
    for (const Slice& slice : w.slices) {
      const Shape shape{rows, w.in, slice.end - slice.begin, in_stride, out.stride, !w.bias.empty(),
                        add};
      jobs.push_back({&slice, &s.PrimitiveFor(shape, slice.weights.get_desc()), row, shape});
    }
  }
  using Type = dnnl::memory::data_type;
  s.pool->ParallelFor(jobs.size(), [&](int64_t i, int worker) {
    const Job& job = jobs[i];
    const Shape& shape = job.shape;
    float* to = static_cast<float*>(out.data) + job.row * out.stride + job.slice->begin;
    const dnnl::memory src({{shape.rows, shape.in}, DnnlType(s.compute_type), {in_stride, 1}},
                           s.engine, in_data + job.row * in_bytes);
    const dnnl::memory dst({{shape.rows, shape.columns}, Type::f32, {out.stride, 1}}, s.engine, to);
    std::unordered_map<int, dnnl::memory> args = {
        {DNNL_ARG_SRC, src}, {DNNL_ARG_WEIGHTS, job.slice->weights}, {DNNL_ARG_DST, dst}};
    if (shape.bias) {
      args[DNNL_ARG_BIAS] =
          dnnl::memory({{1, shape.columns}, Type::f32, dnnl::memory::format_tag::ab}, s.engine,
                       const_cast<float*>(w.bias.data() + job.slice->begin));
    }
    (*job.primitives)[worker].execute(s.streams[worker], args);
    s.streams[worker].wait();
  });
}

}  // namespace tauserve::cpu
