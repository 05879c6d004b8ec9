// Linear layers against a plain double-precision product, for shapes with tails in every direction; on a GPU also that few
// rows give the same bits whatever their number.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

struct Shape {
  int rows, in, out;
};

std::unique_ptr<Backend> MakeBackend(DataType compute_type) {
  BackendOptions options;
  options.device = TestDevice();
  options.threads = 2;
  options.compute_type = compute_type;
  auto backend = CreateBackend(options);
  EXPECT_TRUE(backend.ok()) << backend.status();
  return std::move(*backend);
}

std::vector<float> Normals(int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& f : values) f = BFloat16ToFloat(FloatToBFloat16(normal(random)));
  return values;
}

void CheckLinear(Backend* backend, const Shape& s, bool bias, bool add) {
  SCOPED_TRACE(testing::Message() << s.rows << " x " << s.in << " -> " << s.out << " bias " << bias
                                  << " add " << add);
  std::mt19937 random(s.rows * 7 + s.in + s.out);
  const int first = s.out / 3;  // two stacked weights
  const std::vector<float> w = Normals(s.out * s.in, random), b = Normals(s.out, random),
                           x = Normals(s.rows * s.in, random);
  const HostTensor weights[] = {
      {w.data(), DataType::kFloat32, {first, s.in}},
      {w.data() + first * s.in, DataType::kFloat32, {s.out - first, s.in}}};
  const HostTensor biases[] = {{b.data(), DataType::kFloat32, {first}},
                               {b.data() + first, DataType::kFloat32, {s.out - first}}};
  auto linear = backend->LoadLinear(
      weights, bias ? absl::MakeConstSpan(biases) : absl::Span<const HostTensor>());
  const TestMatrix in(*backend, s.rows, s.in, x);
  TestMatrix out(*backend, s.rows, s.out, s.out + 5, backend->activation_type());
  out.Fill(0.5f);
  const TestMatrix floats(*backend, s.rows, s.out, s.out + 3, DataType::kFloat32);
  const auto host = backend->AllocateHost(s.rows * s.out * sizeof(float));
  float* const y = static_cast<float*>(host->data());
  if (add) {
    backend->LinearAdd(*linear, in.matrix(), out.matrix());
  } else {
    backend->Linear(*linear, in.matrix(), out.matrix());
  }
  backend->LinearToFloat(*linear, in.matrix(), floats.matrix());
  backend->DownloadFloats(floats.matrix(), y);
  const absl::Status status = backend->Synchronize();
  ASSERT_TRUE(status.ok()) << status;
  const double rounding = backend->activation_type() == DataType::kFloat32 ? 0 : 0x1p-8;
  for (int r = 0; r < s.rows; r++) {
    for (int o = 0; o < s.out; o++) {
      double ref = bias ? b[o] : 0.0, size = 1;
      for (int i = 0; i < s.in; i++) {
        ref += double{x[r * s.in + i]} * w[o * s.in + i];
        size += std::fabs(double{x[r * s.in + i]} * w[o * s.in + i]);
      }
      ASSERT_NEAR(y[r * s.out + o], ref, 1e-6 * size) << r << " " << o;
      if (add) ref += 0.5;
      // With a bias cuBLASLt rounds what it adds that to as well.
      const double parts = bias ? std::fabs(ref - b[o]) + std::fabs(b[o]) + 0.5 : 0.0;
      const double tolerance = rounding * (std::fabs(ref) + parts);
      ASSERT_NEAR(out.At(r, o), ref, 1e-6 * size + tolerance) << r << " " << o;
    }
    for (int o = 0; o < 5; o++) ASSERT_EQ(out.At(r, s.out + o), 0.5f);
  }
}

// out = act(gate) * up in double precision, and its tolerance.
struct Gated {
  double value, tolerance;
};

Gated GatedOf(Activation act, double gate, double up, double gate_size, double up_size,
              double rounding) {
  const double activated =
      act == Activation::kSilu
          ? gate / (1 + std::exp(-gate))
          : 0.5 * gate *
                (1 + std::tanh(std::sqrt(2 / M_PI) * (gate + 0.044715 * gate * gate * gate)));
  // Gate and up may be rounded before they meet; no slope of the activations is above 1.2.
  const double gate_error = 1e-6 * gate_size + rounding * std::fabs(gate);
  const double up_error = 1e-6 * up_size + rounding * std::fabs(up);
  return {activated * up, 1.2 * gate_error * (std::fabs(up) + up_error) +
                              std::fabs(activated) * up_error +
                              (rounding + 1e-5) * std::fabs(activated * up) + 1e-6};
}

void CheckGated(Backend* backend, const Shape& s, Activation act, bool bias) {
  SCOPED_TRACE(testing::Message() << s.rows << " x " << s.in << " -> " << s.out << " gated");
  std::mt19937 random(s.rows * 5 + s.in + s.out);
  const std::vector<float> w = Normals(2 * s.out * s.in, random), b = Normals(2 * s.out, random),
                           x = Normals(s.rows * s.in, random);
  const HostTensor weights[] = {{w.data(), DataType::kFloat32, {s.out, s.in}},
                                {w.data() + s.out * s.in, DataType::kFloat32, {s.out, s.in}}};
  const HostTensor biases[] = {{b.data(), DataType::kFloat32, {s.out}},
                               {b.data() + s.out, DataType::kFloat32, {s.out}}};
  auto linear = backend->LoadLinear(
      weights, bias ? absl::MakeConstSpan(biases) : absl::Span<const HostTensor>());
  const TestMatrix in(*backend, s.rows, s.in, x);
  const TestMatrix gate_up(*backend, s.rows, 2 * s.out);
  TestMatrix out(*backend, s.rows, s.out, s.out + 8, backend->activation_type());
  out.Fill(0.5f);
  backend->GatedLinear(*linear, act, in.matrix(), gate_up.matrix(), out.matrix());
  const absl::Status status = backend->Synchronize();
  ASSERT_TRUE(status.ok()) << status;
  const double rounding = backend->activation_type() == DataType::kFloat32 ? 0 : 0x1p-8;
  for (int r = 0; r < s.rows; r++) {
    for (int o = 0; o < s.out; o++) {
      double sum[2], size[2];
      for (int part = 0; part < 2; part++) {
        const int row = part * s.out + o;
        sum[part] = bias ? b[row] : 0.0;
        size[part] = 1;
        for (int i = 0; i < s.in; i++) {
          const double product = double{x[r * s.in + i]} * w[row * s.in + i];
          sum[part] += product;
          size[part] += std::fabs(product);
        }
      }
      const Gated want = GatedOf(act, sum[0], sum[1], size[0], size[1], rounding);
      ASSERT_NEAR(out.At(r, o), want.value, want.tolerance) << r << " " << o;
    }
    for (int o = 0; o < 8; o++) ASSERT_EQ(out.At(r, s.out + o), 0.5f);
  }
}

TEST(LinearTest, EqualsThePlainProduct) {
  for (DataType type : TestKvTypes()) {
    const auto backend = MakeBackend(type);
    for (const Shape& s : {Shape{1, 64, 96}, Shape{3, 33, 130}, Shape{129, 320, 200},
                           Shape{300, 48, 64}, Shape{17, 896, 320}}) {
      CheckLinear(backend.get(), s, false, false);
      CheckLinear(backend.get(), s, true, false);
      CheckLinear(backend.get(), s, false, true);
      CheckLinear(backend.get(), s, true, true);
    }
  }
}

TEST(LinearTest, FewRows) {
  const auto backend = MakeBackend(DataType::kBFloat16);
  for (int rows = 1; rows <= 70; rows++) {
    const int in = 8 * (1 + rows * 13 % 47), out = 1 + rows * 59 % 331;
    CheckLinear(backend.get(), {rows, in, out}, rows % 2 == 0, rows % 3 == 0);
  }
  // Long sums, of several blocks.
  CheckLinear(backend.get(), {5, 2056, 129}, true, true);
  CheckLinear(backend.get(), {33, 1536, 257}, false, false);
}

TEST(LinearTest, Gated) {
  for (DataType type : TestKvTypes()) {
    const auto backend = MakeBackend(type);
    for (const Shape& s : {Shape{1, 64, 96}, Shape{3, 40, 130}, Shape{16, 320, 896},
                           Shape{70, 48, 64}, Shape{9, 2048, 65}}) {
      CheckGated(backend.get(), s, Activation::kSilu, false);
      CheckGated(backend.get(), s, Activation::kGeluTanh, true);
    }
  }
}

// Up to 16 rows, which are a kernel of their own on a GPU.
TEST(LinearTest, RowsDoNotDependOnTheirNumber) {
  if (!OnGpu()) GTEST_SKIP() << "of a kernel of the GPU";
  const auto backend = MakeBackend(DataType::kBFloat16);
  const int most = 16, in = 2056, out = 700;
  std::mt19937 random(1);
  const std::vector<float> w = Normals(out * in, random), x = Normals(most * in, random);
  const HostTensor weight[] = {{w.data(), DataType::kFloat32, {out, in}}};
  auto linear = backend->LoadLinear(weight, {});
  const TestMatrix inputs(*backend, most, in, x);
  const auto host = backend->AllocateHost(most * out * sizeof(float));
  const float* y = static_cast<const float*>(host->data());
  std::vector<float> all;
  for (int rows = most; rows > 0; rows--) {
    Matrix part = inputs.matrix();
    part.rows = rows;
    const TestMatrix floats(*backend, rows, out, out, DataType::kFloat32);
    backend->LinearToFloat(*linear, part, floats.matrix());
    backend->DownloadFloats(floats.matrix(), static_cast<float*>(host->data()));
    ASSERT_TRUE(backend->Synchronize().ok());
    if (all.empty()) all.assign(y, y + most * out);
    for (int i = 0; i < rows * out; i++) ASSERT_EQ(y[i], all[i]) << rows << " rows, " << i;
  }
}

}  // namespace
}  // namespace tauserve
