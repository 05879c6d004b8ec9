// An engine on a fake model, and the check that every test ends with: nothing is left in it.
#ifndef TAUSERVE_TESTS_SERVER_ENGINE_ENGINE_FIXTURE_H_
#define TAUSERVE_TESTS_SERVER_ENGINE_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "server/engine/engine.h"
#include "tests/server/engine/fake_model.h"

namespace tauserve {

class EngineTest : public testing::Test {
 protected:
  void Start(EngineOptions options = {}, int32_t pages = 64) {
    model_ = std::make_unique<FakeModel>(pages);
    engine_ = std::make_unique<Engine>(options, model_.get(), &tokenizer_, &metrics_);
  }
  void TearDown() override {
    if (!engine_) return;
    engine_->Shutdown();
    const EngineLoad load = engine_->load();
    EXPECT_EQ(load.pages_free, load.pages_total);
    EXPECT_EQ(load.running_requests + load.waiting_requests, 0);
    EXPECT_EQ(load.waiting_prompt_tokens, 0);
  }
  // Submits a request that keeps the engine inside Run until Release.
  FakeRequest HoldWith(const std::string& id, int prompt, int max_new) {
    model_->Hold();
    FakeRequest f = MakeFakeRequest(id, prompt, max_new);
    EXPECT_TRUE(engine_->Submit(f.request).ok());
    model_->WaitUntilHeld();
    return f;
  }
  absl::Duration TimeOf(EnginePhase phase) const {
    return engine_->phase_time()[static_cast<int>(phase)];
  }
  FakeTokenizer tokenizer_;
  Metrics metrics_{"fake"};
  std::unique_ptr<FakeModel> model_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_ENGINE_ENGINE_FIXTURE_H_
