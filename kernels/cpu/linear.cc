#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>
#include <map>
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

// What a matmul primitive depends on, beside the types. Inputs and outputs are dense: for strided ones oneDNN 2.6 falls
// back to a reference loop, hundreds of times slower.
struct Shape {
  int64_t rows, in, columns;
  auto operator<=>(const Shape&) const = default;
};

}  // namespace

struct LinearEngine::State {
  State(DataType type, const Kernels* k, ThreadPool* p)
      : compute_type(type),
        kernels(k),
        pool(p),
        engine(dnnl::engine::kind::cpu, 0),
        results(p->threads()) {
    for (int w = 0; w < p->threads(); w++) streams.emplace_back(engine);
    // Before AVX-512 oneDNN multiplies no bfloat16: rounded operands are multiplied as float32, with the same products.
    operand_type = compute_type;
    if (!Describe({1, 64, 64}, nullptr)) operand_type = DataType::kFloat32;
  }

  // Without `weights` oneDNN chooses their layout. Empty where it has no such product.
  dnnl::matmul::primitive_desc Describe(const Shape& s, const dnnl::memory::desc* weights) const {
    using dnnl::memory;
    const memory::desc in({s.rows, s.in}, DnnlType(operand_type), memory::format_tag::ab);
    const memory::desc any({s.in, s.columns}, DnnlType(operand_type), memory::format_tag::any);
    const memory::desc out({s.rows, s.columns}, memory::data_type::f32, memory::format_tag::ab);
    return {dnnl::matmul::desc(in, weights ? *weights : any, out), engine, /*allow_empty=*/true};
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

  // To bfloat16 and back, where operands are rounded so.
  void Round(float* values, int64_t n) const {
    if (operand_type == compute_type) return;
    for (int64_t i = 0; i < n; i++) values[i] = BFloat16ToFloat(FloatToBFloat16(values[i]));
  }

  // The input as dense rows of the operand type: itself, or a converted copy.
  char* DenseInput(Matrix in) {
    if (compute_type == DataType::kFloat32 && in.stride == in.cols) {
      return static_cast<char*>(in.data);
    }
    const size_t width = in.cols * SizeOf(operand_type);
    if (dense_input.size() < in.rows * width) dense_input.resize(in.rows * width);
    constexpr int64_t kRows = 16;
    pool->ParallelFor((in.rows + kRows - 1) / kRows, [&](int64_t i, int) {
      for (int64_t r = i * kRows; r < std::min(in.rows, (i + 1) * kRows); r++) {
        const float* from = static_cast<const float*>(in.data) + r * in.stride;
        char* to = dense_input.data() + r * width;
        if (operand_type == DataType::kFloat32) {
          std::memcpy(to, from, width);
          Round(reinterpret_cast<float*>(to), in.cols);
        } else {
          kernels->to_bf16(from, in.cols, reinterpret_cast<uint16_t*>(to));
        }
      }
    });
    return dense_input.data();
  }

  DataType compute_type;  // what operands are rounded to
  DataType operand_type;  // what they are multiplied as
  const Kernels* kernels;
  ThreadPool* pool;
  dnnl::engine engine;
  std::vector<dnnl::stream> streams;  // one for each worker
  std::map<Shape, std::vector<dnnl::matmul>> primitives;
  std::vector<char> dense_input;
  std::vector<std::vector<float>> results;  // of each worker: a dense tile
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
  s.Round(plain.data(), plain.size());
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
    const auto desc = s.Describe({kTileRowsMax, packed->in, columns}, nullptr);
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
  char* const input = s.DenseInput(in);
  const int64_t input_row = in.cols * static_cast<int64_t>(SizeOf(s.operand_type));
  const int64_t row_tiles = (in.rows + kTileRowsMax - 1) / kTileRowsMax;
  const int64_t num_slices = w.slices.size();
  for (const Slice& slice : w.slices) {  // made here: the workers only look them up
    const int64_t columns = slice.end - slice.begin;
    const dnnl::memory::desc desc = slice.weights.get_desc();
    if (row_tiles > 1) s.PrimitiveFor({kTileRowsMax, w.in, columns}, desc);
    s.PrimitiveFor({in.rows - (row_tiles - 1) * kTileRowsMax, w.in, columns}, desc);
  }
  s.pool->ParallelFor(row_tiles * num_slices, [&](int64_t i, int worker) {
    const Slice& slice = w.slices[i % num_slices];
    const int64_t row = i / num_slices * kTileRowsMax;
    const Shape shape{std::min(kTileRowsMax, in.rows - row), w.in, slice.end - slice.begin};
    std::vector<float>& result = s.results[worker];
    if (result.size() < size_t(shape.rows * shape.columns)) {
      result.resize(shape.rows * shape.columns);
    }
    const dnnl::matmul& matmul = s.primitives.find(shape)->second[worker];
    using dnnl::memory;
    const memory from({{shape.rows, shape.in}, DnnlType(s.operand_type), memory::format_tag::ab},
                      s.engine, input + row * input_row);
    const memory to({{shape.rows, shape.columns}, memory::data_type::f32, memory::format_tag::ab},
                    s.engine, result.data());
    matmul.execute(s.streams[worker],
                   {{DNNL_ARG_SRC, from}, {DNNL_ARG_WEIGHTS, slice.weights}, {DNNL_ARG_DST, to}});
    s.streams[worker].wait();
    for (int64_t r = 0; r < shape.rows; r++) {
      s.kernels->put_row(result.data() + r * shape.columns,
                         w.bias.empty() ? nullptr : w.bias.data() + slice.begin, add, shape.columns,
                         static_cast<float*>(out.data) + (row + r) * out.stride + slice.begin);
    }
  });
}

}  // namespace tauserve::cpu
