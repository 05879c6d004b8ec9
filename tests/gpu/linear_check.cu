// Checks linear layers of few rows against double precision, and times them against cuBLASLt on weights that come from
// memory, not from the cache. Prints one line a case; timings as one JSON object a line.
//   linear_check check   all cases
//   linear_check small   few small cases, for compute-sanitizer
//   linear_check time [rows ...]   single products and those of whole steps, as graph replays, medians
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/cublaslt_linear.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/skinny_linear.h"
#include "tests/gpu/graph_timer.h"

namespace tauserve::cuda {
namespace {

using bf16 = __nv_bfloat16;

// About normal, the same for a seed.
__device__ float Normal(uint64_t i, uint64_t seed) {
  float sum = 0;
  uint64_t x = (i + 1) * 0x9e3779b97f4a7c15 + seed * 0xbf58476d1ce4e5b9;
  for (int n = 0; n < 4; n++) {
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9;
    x ^= x >> 27;
    x *= 0x94d049bb133111eb;
    x ^= x >> 31;
    sum += static_cast<float>(x >> 40) * (1.0f / (1 << 24)) - 0.5f;
  }
  return sum * 1.7320508f;
}

template <typename T>
__global__ void FillNormal(T* to, size_t n, float scale, uint64_t seed) {
  const size_t step = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    to[i] = static_cast<T>(scale * Normal(i, seed));
  }
}

template <typename T>
void Randomise(DeviceArray<T>& a, float scale, uint64_t seed) {
  FillNormal<<<1024, 256>>>(a.get(), a.size(), scale, seed);
  REQUIRE_CUDA(cudaGetLastError());
}

// sum = in * weight^T + bias, and the sum of the products' sizes.
__global__ void Reference(LinearArgs a, double* sum, double* size) {
  const int64_t f = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, r = blockIdx.y;
  if (f >= a.out_features) return;
  const bf16* x = static_cast<const bf16*>(a.in.data) + r * a.in.stride;
  const bf16* w = a.weight + f * a.in.cols;
  double s = a.float_bias != nullptr ? a.float_bias[f] : 0.0, absolute = fabs(s);
  for (int64_t k = 0; k < a.in.cols; k++) {
    const double product = double{__bfloat162float(x[k])} * double{__bfloat162float(w[k])};
    s += product;
    absolute += fabs(product);
  }
  sum[r * a.out_features + f] = s;
  size[r * a.out_features + f] = absolute;
}

struct Engine {
  Engine() : skinny(SkinnyLinearWorkspaceBytes()), library(kCublasLtWorkspaceBytes) {
    skinny.Fill(0);
    cublaslt.Open();
  }
  void Run(bool own, const LinearArgs& args, cudaStream_t stream) {
    if (own) {
      SkinnyLinear(args, skinny.get(), stream);
    } else {
      cublaslt.Run(args, library.get(), stream);
    }
  }
  DeviceArray<char> skinny, library;
  CublasLtLinear cublaslt;
};

// ---- Checks

struct Case {
  int in, out;
  std::vector<int> rows;
  bool bias = false, add = false, float_out = false, gated = false;
  Activation activation = Activation::kSilu;
};

double Act(Activation activation, double x) {
  if (activation == Activation::kSilu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

int failures = 0;

float ValueAt(const std::vector<char>& bytes, size_t i, bool is_float) {
  float f;
  if (is_float) {
    std::memcpy(&f, bytes.data() + i * 4, 4);
    return f;
  }
  bf16 b;
  std::memcpy(&b, bytes.data() + i * 2, 2);
  return __bfloat162float(b);
}

// Rows of every number must be the same bits as in the largest batch, in every run.
void Check(Engine& engine, const Case& c) {
  const int most = *std::max_element(c.rows.begin(), c.rows.end());
  const int columns = c.gated ? c.out / 2 : c.out;
  const int in_stride = c.in + 24, out_stride = columns + 3;
  const size_t element = c.float_out ? 4 : 2;
  DeviceArray<bf16> weight(size_t(c.out) * c.in), x(size_t(most) * in_stride), bias(c.out);
  DeviceArray<float> float_bias(c.out);
  DeviceArray<char> out(size_t(most) * out_stride * element), before(out.size());
  DeviceArray<double> sum(size_t(most) * c.out), size(sum.size());
  Randomise(weight, 1, 1);
  Randomise(x, 1, 2);
  Randomise(float_bias, 3, 3);
  if (c.float_out) {
    FillNormal<<<64, 256>>>(reinterpret_cast<float*>(before.get()), before.size() / 4, 2.0f, 4);
  } else {
    FillNormal<<<64, 256>>>(reinterpret_cast<bf16*>(before.get()), before.size() / 2, 2.0f, 4);
  }
  LinearArgs args;
  args.weight = weight.get();
  args.out_features = c.out;
  args.bias = c.bias ? bias.get() : nullptr;
  args.float_bias = c.bias ? float_bias.get() : nullptr;
  args.in = {x.get(), most, c.in, in_stride};
  args.out = {out.get(), most, columns, out_stride};
  args.out_type = c.float_out ? DataType::kFloat32 : DataType::kBFloat16;
  args.add = c.add;
  args.gated = c.gated;
  args.activation = c.activation;
  Reference<<<dim3((c.out + 127) / 128, most), 128>>>(args, sum.get(), size.get());
  REQUIRE_CUDA(cudaGetLastError());
  const std::vector<double> sums = sum.Get(), sizes = size.Get();
  const std::vector<char> old = before.Get();
  double worst = 0;  // error over what is tolerated
  bool same = true, untouched = true;
  std::vector<char> first;
  std::vector<int> batches = {most, most};
  batches.insert(batches.end(), c.rows.begin(), c.rows.end());
  for (const int rows : batches) {
    args.in.rows = args.out.rows = rows;
    REQUIRE_CUDA(cudaMemcpy(out.get(), before.get(), out.size(), cudaMemcpyDeviceToDevice));
    engine.Run(true, args, nullptr);
    REQUIRE_CUDA(cudaDeviceSynchronize());
    const std::vector<char> got = out.Get();
    if (first.empty()) first = got;
    const size_t used = size_t(rows) * out_stride * element;
    same &= std::memcmp(got.data(), first.data(), used) == 0;
    untouched &= std::memcmp(got.data() + used, old.data() + used, got.size() - used) == 0;
  }
  for (int r = 0; r < most; r++) {
    for (int f = 0; f < out_stride; f++) {
      const size_t at = size_t(r) * out_stride + f;
      if (f >= columns) {
        untouched &=
            std::memcmp(first.data() + at * element, old.data() + at * element, element) == 0;
        continue;
      }
      const size_t i = size_t(r) * c.out + f;
      double want = sums[i], tolerance = 1e-6 * sizes[i];
      if (c.gated) {
        const double up = sums[i + columns];
        tolerance = 1.2 * tolerance * std::fabs(up) + 1e-6 * sizes[i + columns] * std::fabs(want);
        want = Act(c.activation, want) * up;
        tolerance += 1e-6 * std::fabs(want);
      }
      if (c.add) want += ValueAt(old, at, c.float_out);
      tolerance += (c.float_out ? 1e-6 : 0x1p-8) * std::fabs(want) + 1e-6;
      const double error = std::fabs(ValueAt(first, at, c.float_out) - want) / tolerance;
      if (!(error <= worst)) worst = error;
    }
  }
  const bool ok = worst <= 1 && same && untouched;
  failures += !ok;
  std::printf("%s %d -> %d rows to %d%s%s%s%s error %.2f same %d untouched %d\n",
              ok ? "ok  " : "FAIL", c.in, c.out, most, c.bias ? " bias" : "", c.add ? " add" : "",
              c.float_out ? " float" : "", c.gated ? " gated" : "", worst, same, untouched);
  std::fflush(stdout);
}

std::vector<Case> SmallCases() {
  return {{64, 96, {1, 9}, true, true},
          {1000, 130, {3, 13}, false, true},
          {8, 1, {1, 16}, true, false, true},
          {2048, 384, {1, 8, 15}, false, false, false, true}};
}

std::vector<Case> Cases() {
  std::vector<int> all;
  for (int r = 1; r <= kMaxSkinnyRows; r++) all.push_back(r);
  const std::vector<int> some = {1, 2, 7, 8, 9, 15, 16};
  std::vector<Case> cases = SmallCases();
  cases.push_back({1024, 4096, all, true, true});
  cases.push_back({4096, 300, all, false, false, true});
  cases.push_back({1408, 2000, all, true, false, false, true});
  for (const int in : {8, 40, 120, 128, 136, 320, 896, 4096}) {
    for (const int out : {1, 63, 64, 129, 640, 17000}) {
      cases.push_back({in, out, some, in % 3 == 0, out % 2 == 0, in % 5 == 0});
    }
  }
  for (const int out : {2, 128, 1792, 5000}) {
    cases.push_back({320, out, some, true, false, false, true, Activation::kGeluTanh});
    cases.push_back({1024, out, some, false, true, true, true});
  }
  cases.push_back({4096, 6144, some});
  cases.push_back({4096, 4096, some, false, true});
  cases.push_back({4096, 28672, some, false, false, false, true});
  cases.push_back({14336, 4096, some, false, true});
  return cases;
}

// ---- Timings

double TimeGraph(const std::function<void(cudaStream_t)>& launch, int replays = 9) {
  return MedianReplay(launch, 2, replays);
}

constexpr size_t kPool = size_t{5} << 30;                   // elements of bf16
constexpr size_t kInputs = size_t{kMaxSkinnyRows} * 28672;  // the same

struct Timings {
  Engine engine;
  DeviceArray<bf16> pool{kPool}, x{kInputs}, y{kInputs}, z{kInputs};
  DeviceArray<float> logits{size_t{kMaxSkinnyRows} * 128256}, norm{8192};
  double copy_rate = 0;  // bytes a microsecond
};

void MeasureCopy(Timings& t) {
  const size_t bytes = size_t{2} << 30;
  const double us = TimeGraph([&](cudaStream_t stream) {
    REQUIRE_CUDA(cudaMemcpyAsync(t.pool.get() + kPool / 2, t.pool.get(), bytes,
                                 cudaMemcpyDeviceToDevice, stream));
  });
  t.copy_rate = 2 * bytes / us;
  std::printf("{\"kind\": \"copy\", \"tb_s\": %.3f}\n", t.copy_rate * 1e-6);
}

LinearArgs Product(const bf16* weight, int rows, int in, int out, const void* from, void* to) {
  LinearArgs args;
  args.weight = weight;
  args.out_features = out;
  args.in = {const_cast<void*>(from), rows, in, in};
  args.out = {to, rows, out, out};
  return args;
}

void TimeProduct(Timings& t, int in, int out, int rows, bool float_out, bool add) {
  const size_t weights = size_t{static_cast<size_t>(in)} * out;
  const int launches =
      static_cast<int>(std::clamp<size_t>((size_t{400} << 20) / (weights * 2), 4, 64));
  double us[2];
  for (const bool own : {false, true}) {
    us[own] =
        TimeGraph([&](cudaStream_t stream) {
          for (int i = 0; i < launches; i++) {
            // Small ones a stretch apart: together far more than the cache.
            const size_t at = i * std::max<size_t>(weights, size_t{8} << 20) % (kPool - weights);
            LinearArgs args = Product(
                t.pool.get() + at, rows, in, out, t.x.get(),
                float_out ? static_cast<void*>(t.logits.get()) : static_cast<void*>(t.y.get()));
            args.add = add;
            if (float_out) args.out_type = DataType::kFloat32;
            t.engine.Run(own, args, stream);
          }
        }) /
        launches;
  }
  const double ideal = weights * 2 / t.copy_rate;
  std::printf(
      "{\"kind\": \"product\", \"in\": %d, \"out\": %d, \"rows\": %d, \"cublaslt_us\": %.2f, "
      "\"us\": %.2f, \"cublaslt_share\": %.3f, \"share\": %.3f}\n",
      in, out, rows, us[0], us[1], ideal / us[0], ideal / us[1]);
  std::fflush(stdout);
}

struct Model {
  const char* name;
  int layers, hidden, qkv, attended, intermediate, vocabulary;
};

// All products, norms and activations of a decode step, without rotation, cache and attention.
void TimeStep(Timings& t, const Model& m, int rows, bool own) {
  size_t weights = 0;
  const double us = TimeGraph([&](cudaStream_t stream) {
    const bf16* w = t.pool.get();
    auto next = [&](int in, int out) {
      const bf16* weight = w;
      w += size_t{static_cast<size_t>(in)} * out;
      return weight;
    };
    const Matrix residual = {t.x.get(), rows, m.hidden, m.hidden};
    const Matrix normed = {t.x.get() + kInputs / 2, rows, m.hidden, m.hidden};
    const Matrix gate_up = {t.y.get(), rows, 2 * m.intermediate, 2 * m.intermediate};
    const Matrix activated = {t.z.get(), rows, m.intermediate, m.intermediate};
    for (int layer = 0; layer < m.layers; layer++) {
      RmsNormRows(residual, t.norm.get(), m.hidden, 1e-5f, normed, stream);
      t.engine.Run(own,
                   Product(next(m.hidden, m.qkv), rows, m.hidden, m.qkv, normed.data, t.y.get()),
                   stream);
      LinearArgs args =
          Product(next(m.attended, m.hidden), rows, m.attended, m.hidden, t.y.get(), residual.data);
      args.add = true;
      t.engine.Run(own, args, stream);
      RmsNormRows(residual, t.norm.get(), m.hidden, 1e-5f, normed, stream);
      args = Product(next(m.hidden, 2 * m.intermediate), rows, m.hidden, 2 * m.intermediate,
                     normed.data, gate_up.data);
      if (own) {
        args.gated = true;
        args.out = activated;
        t.engine.Run(true, args, stream);
      } else {
        t.engine.Run(false, args, stream);
        GatedActivationRows(Activation::kSilu, gate_up, activated, stream);
      }
      args = Product(next(m.intermediate, m.hidden), rows, m.intermediate, m.hidden, activated.data,
                     residual.data);
      args.add = true;
      t.engine.Run(own, args, stream);
    }
    RmsNormRows(residual, t.norm.get(), m.hidden, 1e-5f, normed, stream);
    LinearArgs args = Product(next(m.hidden, m.vocabulary), rows, m.hidden, m.vocabulary,
                              normed.data, t.logits.get());
    args.out_type = DataType::kFloat32;
    t.engine.Run(own, args, stream);
    weights = w - t.pool.get();
  });
  const double ideal = weights * 2 / t.copy_rate;
  std::printf(
      "{\"kind\": \"step\", \"model\": \"%s\", \"layers\": %d, \"rows\": %d, \"by\": \"%s\", "
      "\"us\": "
      "%.1f, \"share\": %.3f}\n",
      m.name, m.layers, rows, own ? "skinny" : "cublaslt", us, ideal / us);
  std::fflush(stdout);
}

void TimeAll(const std::vector<int>& all_rows) {
  Timings t;
  Randomise(t.pool, 0.02f, 1);
  Randomise(t.x, 1, 2);
  Randomise(t.norm, 1, 3);
  MeasureCopy(t);
  for (const int rows : all_rows) {
    for (const Model& m : {Model{"8B", 8, 4096, 6144, 4096, 14336, 128256},
                           Model{"embedded", 4, 320, 640, 320, 896, 260}}) {
      for (const bool own : {false, true}) TimeStep(t, m, rows, own);
    }
  }
  for (const int rows : all_rows) {
    TimeProduct(t, 4096, 6144, rows, false, false);
    TimeProduct(t, 4096, 4096, rows, false, true);
    TimeProduct(t, 4096, 28672, rows, false, false);
    TimeProduct(t, 14336, 4096, rows, false, true);
    TimeProduct(t, 4096, 128256, rows, true, false);
    TimeProduct(t, 320, 640, rows, false, false);
    TimeProduct(t, 320, 1792, rows, false, false);
    TimeProduct(t, 896, 320, rows, false, true);
  }
  MeasureCopy(t);
}

}  // namespace
}  // namespace tauserve::cuda

int main(int argc, char** argv) {
  using namespace tauserve::cuda;
  const std::string mode = argc > 1 ? argv[1] : "check";
  if (mode == "time") {
    std::vector<int> rows;
    for (int i = 2; i < argc; i++) rows.push_back(std::atoi(argv[i]));
    if (rows.empty()) rows = {1, 2, 4, 8, 12, 16};
    TimeAll(rows);
    return 0;
  }
  Engine engine;
  for (const Case& c : mode == "small" ? SmallCases() : Cases()) Check(engine, c);
  std::printf("%s\n", failures ? "FAILED" : "all passed");
  return failures != 0;
}
