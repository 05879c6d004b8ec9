// A logit that is NaN ends its request alone: on the real model, whose backend spoils one row of a batch, in whole rows and
// where the device selects the largest logits; and what the request left in the prefix cache is not used again.
#include <gmock/gmock.h>
#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/model/transformer.h"
#include "tests/bench/forwarding_backend.h"
#include "tests/server/engine/engine_fixture.h"

namespace tauserve {
namespace {

using testing::HasSubstr;

double NonFinite(const Metrics& metrics) {
  for (const auto& source : metrics.collectables()) {
    for (const prometheus::MetricFamily& family : source.lock()->Collect()) {
      if (family.name == "tauserve_nonfinite_logits_total") return family.metric[0].counter.value;
    }
  }
  return -1;
}

// Puts a value in a logit of the second row of the fifth step with two rows of logits. With `own_memory` it is a device
// that selects the largest logits.
class SpoilingBackend : public ForwardingBackend {
 public:
  SpoilingBackend(std::unique_ptr<Backend> backend, bool own_memory, float value)
      : ForwardingBackend(std::move(backend)), device_(ForwardingBackend::device()), value_(value) {
    device_.own_memory = own_memory;
  }
  const DeviceInfo& device() const override { return device_; }
  void LinearToFloat(const LinearWeight& weight, Matrix in, Matrix out) override {
    ForwardingBackend::LinearToFloat(weight, in, out);
    if (out.rows != 2 || ++pairs_ != 5) return;
    static_cast<float*>(out.data)[out.stride + 1234] = value_;
  }

 private:
  DeviceInfo device_;
  const float value_;
  int pairs_ = 0;
};

class NonFiniteLogitsTest : public testing::TestWithParam<std::pair<bool, float>> {};

TEST_P(NonFiniteLogitsTest, EndOneRequestOfABatch) {
  const auto [own_memory, value] = GetParam();
  BackendOptions options;
  options.device = "cpu";
  options.threads = 2;
  auto cpu = CreateBackend(options);
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  SpoilingBackend backend(*std::move(cpu), own_memory, value);
  ModelOptions model_options;
  model_options.kv_cache_bytes = 16 << 20;
  model_options.max_batched_tokens = 256;
  auto model = LoadModel("models/recall-9m", &backend, model_options);
  ASSERT_TRUE(model.ok()) << model.status();
  FakeTokenizer tokenizer;
  Metrics metrics("recall-9m");
  EngineOptions engine_options;
  engine_options.max_batched_tokens = 256;
  Engine engine(engine_options, model->get(), &tokenizer, &metrics);

  auto request = [](const std::string& id, int32_t first) {
    FakeRequest f = MakeFakeRequest(id, 40, 30, first);
    f.request->stopping.ignore_eos = true;
    return f;
  };
  std::vector<std::vector<int32_t>> alone;
  for (int32_t first : {5, 100}) {
    FakeRequest f = request("alone", first);
    ASSERT_TRUE(engine.Submit(f.request).ok());
    ASSERT_TRUE(f.sink->Wait().status.ok());
    alone.push_back(f.sink->tokens());
  }
  FakeRequest good = request("good", 5), bad = request("bad", 100);
  good.request->arrival -= absl::Seconds(1);  // the first row
  for (FakeRequest* f : {&good, &bad}) ASSERT_TRUE(engine.Submit(f->request).ok());
  const Completion c = bad.sink->Wait();
  EXPECT_EQ(c.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(c.status.message()), HasSubstr("request bad: logit of token 1234 is"));
  EXPECT_TRUE(good.sink->Wait().status.ok());
  EXPECT_EQ(good.sink->tokens(), alone[0]);
  std::vector<int32_t> before = bad.sink->tokens();
  ASSERT_GE(before.size(), 4);
  ASSERT_LT(before.size(), 30);
  alone[1].resize(before.size());
  EXPECT_EQ(before, alone[1]);
  EXPECT_EQ(NonFinite(metrics), 1);
  engine.Shutdown();
  EXPECT_EQ(engine.load().pages_free, engine.load().pages_total);
}

INSTANTIATE_TEST_SUITE_P(Rows, NonFiniteLogitsTest,
                         testing::Values(std::pair(false, NAN), std::pair(true, NAN),
                                         std::pair(false, INFINITY), std::pair(true, INFINITY)));

TEST_F(EngineTest, PagesOfARequestWithNaNsAreNotUsedAgain) {
  Start();
  std::atomic<bool> broken = true;
  model_->on_logits = [&](int32_t, int32_t position, absl::Span<float> logits) {
    if (broken && position == 205) logits[7] = NAN;
  };
  FakeRequest bad = MakeFakeRequest("bad", 200, 20);
  ASSERT_TRUE(engine_->Submit(bad.request).ok());
  EXPECT_EQ(bad.sink->Wait().status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine_->ClearPrefixCache(), 0);  // nothing of it is kept
  broken = false;
  FakeRequest again = MakeFakeRequest("again", 200, 20),
              cached = MakeFakeRequest("cached", 200, 20);
  ASSERT_TRUE(engine_->Submit(again.request).ok());
  EXPECT_EQ(again.sink->Wait().cached_tokens, 0);
  ASSERT_TRUE(engine_->Submit(cached.request).ok());
  EXPECT_EQ(cached.sink->Wait().cached_tokens, 192);
  EXPECT_EQ(cached.sink->tokens(), ExpectedTokens(*cached.request));
}

}  // namespace
}  // namespace tauserve
