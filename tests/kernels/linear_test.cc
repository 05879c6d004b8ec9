// Linear layers against a plain double-precision product, for shapes with tails in every direction.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/half.h"
#include "tests/kernels/test_device.h"

namespace tauserve {
namespace {

struct Shape {
  int rows, in, out;
};

void CheckLinear(DataType compute_type, const Shape& s, bool bias, bool add) {
  SCOPED_TRACE(testing::Message() << s.rows << " x " << s.in << " -> " << s.out << " bias " << bias
                                  << " add " << add);
  BackendOptions options;
  options.device = TestDevice();
  options.threads = 2;
  options.compute_type = compute_type;
  auto backend = CreateBackend(options);
  ASSERT_TRUE(backend.ok()) << backend.status();
  std::mt19937 random(s.rows * 7 + s.in + s.out);
  std::normal_distribution<float> normal;
  const int first = s.out / 3;  // two stacked weights
  std::vector<float> w(s.out * s.in), b(s.out), x(s.rows * s.in);
  for (auto* v : {&w, &b, &x}) {
    for (float& f : *v) f = BFloat16ToFloat(FloatToBFloat16(normal(random)));
  }
  const HostTensor weights[] = {
      {w.data(), DataType::kFloat32, {first, s.in}},
      {w.data() + first * s.in, DataType::kFloat32, {s.out - first, s.in}}};
  const HostTensor biases[] = {{b.data(), DataType::kFloat32, {first}},
                               {b.data() + first, DataType::kFloat32, {s.out - first}}};
  auto linear = (*backend)->LoadLinear(
      weights, bias ? absl::MakeConstSpan(biases) : absl::Span<const HostTensor>());
  const TestMatrix in(**backend, s.rows, s.in, x);
  TestMatrix out(**backend, s.rows, s.out, s.out + 5, (*backend)->activation_type());
  out.Fill(0.5f);
  const TestMatrix floats(**backend, s.rows, s.out, s.out + 3, DataType::kFloat32);
  const auto host = (*backend)->AllocateHost(s.rows * s.out * sizeof(float));
  float* const y = static_cast<float*>(host->data());
  if (add) {
    (*backend)->LinearAdd(*linear, in.matrix(), out.matrix());
  } else {
    (*backend)->Linear(*linear, in.matrix(), out.matrix());
  }
  (*backend)->LinearToFloat(*linear, in.matrix(), floats.matrix());
  (*backend)->DownloadFloats(floats.matrix(), y);
  const absl::Status status = (*backend)->Synchronize();
  ASSERT_TRUE(status.ok()) << status;
  const double rounding = (*backend)->activation_type() == DataType::kFloat32 ? 0 : 0x1p-8;
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

TEST(LinearTest, EqualsThePlainProduct) {
  for (DataType type : TestKvTypes()) {
    for (const Shape& s : {Shape{1, 64, 96}, Shape{3, 33, 130}, Shape{129, 320, 200},
                           Shape{300, 48, 64}, Shape{17, 896, 320}}) {
      CheckLinear(type, s, false, false);
      CheckLinear(type, s, true, false);
      CheckLinear(type, s, false, true);
      CheckLinear(type, s, true, true);
    }
  }
}

}  // namespace
}  // namespace tauserve
