#include "server/model/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/server/model/model_folder.h"
#include "tests/server/model/plain_backend.h"
#include "tests/server/model/sequence_runner.h"

namespace tauserve {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int64_t kPageBytes = 64 * 2 * 2 * 32 * 2 * 4;  // of ModelFolder's model on PlainBackend

ModelOptions Options(int max_batched_tokens = 128, int pages = 8) {
  ModelOptions options;
  options.max_batched_tokens = max_batched_tokens;
  options.kv_cache_bytes = pages * kPageBytes;
  return options;
}

absl::Status LoadError(const ModelFolder& folder, const ModelOptions& options = Options()) {
  PlainBackend backend;
  return LoadModel(folder.path(), &backend, options).status();
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::vector<float> Copy(const StepOutput& output) {
  return {output.logits.begin(), output.logits.end()};
}

std::vector<int32_t> Tokens(int count, int vocab_size) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = (i * 37 + i / 5) % vocab_size;
  return tokens;
}

TEST(TransformerTest, TellsAboutItself) {
  ModelFolder folder;
  folder.config["entmax_alpha"] = {1.25, {1, 1.5, 2, 1.5}};
  folder.Write();
  folder.folder().Write("generation_config.json", R"({"eos_token_id": [4, 5]})");
  PlainBackend backend;
  const auto model = LoadModel(folder.path() + "/", &backend, Options(128, 8));
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelInfo& info = (*model)->info();
  EXPECT_EQ(info.name, folder.path().substr(folder.path().rfind('/') + 1));
  EXPECT_EQ(info.architecture, "LlamaForCausalLM");
  EXPECT_EQ(info.vocab_size, 50);
  EXPECT_EQ(info.max_context_tokens, 1000);
  EXPECT_EQ(info.alpha_min, 1);
  EXPECT_EQ(info.alpha_max, 2);
  EXPECT_THAT(info.eos_token_ids, ElementsAre(4, 5));
  EXPECT_EQ(info.parameters, 2 * 50 * 24 + 24 + 2 * (2 * 24 + 384 * 24 + 3 * 40 * 24));
  EXPECT_EQ((*model)->num_pages(), 8);
}

TEST(TransformerTest, GivesTheRowsAskedForInTheirOrder) {
  ModelFolder folder;
  folder.Write();
  PlainBackend backend;
  const auto model = LoadModel(folder.path(), &backend, Options());
  ASSERT_TRUE(model.ok()) << model.status();
  SequenceRunner runner(model->get(), 1);
  const std::vector<int32_t> tokens = Tokens(70, 50);
  const std::vector<float> two = Copy(runner.Step({{0, tokens}}, {69, 3}));
  ASSERT_EQ(two.size(), 2 * 50);
  for (const float logit : two) EXPECT_TRUE(std::isfinite(logit));
  const std::vector<float> one = Copy(runner.Step({{1, tokens}}, {3}));
  EXPECT_EQ(one, std::vector<float>(two.begin() + 50, two.end()));

  // Steps without logits leave the same cache behind.
  EXPECT_TRUE(runner.Step({{2, {tokens.begin(), tokens.begin() + 69}}}, {}).logits.empty());
  const std::vector<float> last = Copy(runner.Step({{2, {tokens[69]}}}, {0}));
  for (int i = 0; i < 50; ++i) EXPECT_NEAR(last[i], two[i], 1e-4);
}

TEST(TransformerTest, GivesStatisticsOfEachSlice) {
  ModelFolder folder;
  folder.Write();
  PlainBackend backend;
  const auto model = LoadModel(folder.path(), &backend, Options());
  ASSERT_TRUE(model.ok()) << model.status();
  SequenceRunner runner(model->get(), 1);
  const StepOutput output = runner.Step({{0, Tokens(3, 50)}, {1, Tokens(1, 50)}}, {});
  ASSERT_EQ(output.stats.size(), 2);
  EXPECT_EQ(output.stats[0].keys_considered, (1 + 2 + 3) * 4 * 2);  // 4 heads, 2 layers
  EXPECT_EQ(output.stats[1].keys_considered, 1 * 4 * 2);
}

TEST(TransformerTest, MakesRoomForMoreLogits) {
  constexpr int kVocab = 1 << 12;  // with room for 64 rows at first
  ModelFolder folder(kVocab);
  folder.config["tie_word_embeddings"] = true;
  folder.shapes.erase("lm_head.weight");
  folder.Write();
  PlainBackend backend;
  const auto model = LoadModel(folder.path(), &backend, Options());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->info().parameters,
            int64_t{kVocab} * 24 + 24 + 2 * (2 * 24 + 384 * 24 + 3 * 40 * 24));
  SequenceRunner runner(model->get(), 1);
  std::vector<int32_t> rows;
  for (int row = 0; row < 66; ++row) rows.push_back(row);
  const std::vector<float> all = Copy(runner.Step({{0, Tokens(66, kVocab)}}, rows));
  for (const int row : {0, 63, 64, 65}) {
    const std::vector<float> one = Copy(runner.Step({{row + 1, Tokens(66, kVocab)}}, {row}));
    const auto begin = all.begin() + int64_t{row} * kVocab;
    EXPECT_TRUE(std::equal(one.begin(), one.end(), begin, begin + kVocab)) << row;
    runner.Release(row + 1);
  }
}

TEST(LoadModelTest, NamesWhatIsMissing) {
  TemporaryFolder empty;
  PlainBackend backend;
  EXPECT_THAT(Message(LoadModel("/nonexistent", &backend, Options()).status()),
              HasSubstr("/nonexistent/config.json"));
  EXPECT_THAT(Message(LoadModel(empty.path(), &backend, Options()).status()),
              HasSubstr(empty.File("config.json")));
  ModelFolder folder;
  folder.folder().Write("config.json", folder.config.dump());
  EXPECT_THAT(Message(LoadError(folder)), HasSubstr("model.safetensors"));
}

TEST(LoadModelTest, NamesTheTensorThatIsMissing) {
  const ModelFolder whole;
  for (const auto& [name, shape] : whole.shapes) {
    ModelFolder folder;
    folder.shapes.erase(name);
    folder.Write();
    const absl::Status status = LoadError(folder);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(Message(status), AllOf(HasSubstr("model.safetensors: tensor " + name),
                                       HasSubstr("missing"), HasSubstr(ShapeString(shape))));
  }
}

TEST(LoadModelTest, NamesTheTensorOfAnotherShape) {
  const ModelFolder whole;
  for (const auto& [name, shape] : whole.shapes) {
    ModelFolder folder;
    std::vector<int64_t> other = shape;
    ++other.back();
    folder.shapes[name] = other;
    folder.Write();
    EXPECT_THAT(Message(LoadError(folder)), AllOf(HasSubstr("model.safetensors: tensor " + name),
                                                  HasSubstr("has shape " + ShapeString(other)),
                                                  HasSubstr("expects " + ShapeString(shape))));
  }
}

TEST(LoadModelTest, WantsTheTensorsThatTheConfigNames) {
  const struct {
    nlohmann::json changes;
    const char* tensor;
  } kCases[] = {
      {{{"attention_bias", true}}, "model.layers.0.self_attn.q_proj.bias"},
      {{{"mlp_bias", true}}, "model.layers.0.mlp.gate_proj.bias"},
      {{{"architectures", {"Qwen2ForCausalLM"}}}, "model.layers.0.self_attn.q_proj.bias"},
      {{{"architectures", {"Qwen3ForCausalLM"}}}, "model.layers.0.self_attn.q_norm.weight"},
      {{{"attn_scale_type", "adapt-softplus-tanh"}},
       "model.layers.0.self_attn.attn_scale_beta_proj.weight"},
      {{{"attn_scale_type", "learn"}}, "model.layers.0.self_attn.attn_scale_beta"},
      {{{"attn_scale_type", "nakanishi"}}, "model.layers.0.self_attn.attn_scale_beta"},
      {{{"num_hidden_layers", 3}}, "model.layers.2.input_layernorm.weight"},
  };
  for (const auto& c : kCases) {
    ModelFolder folder;
    folder.config.update(c.changes);
    folder.Write();
    EXPECT_THAT(Message(LoadError(folder)), HasSubstr(std::string("tensor ") + c.tensor + " "));
  }
}

TEST(LoadModelTest, RefusesBadOptionsAndBadFiles) {
  ModelFolder folder;
  folder.Write();
  EXPECT_TRUE(LoadError(folder).ok());
  EXPECT_THAT(Message(LoadError(folder, Options(0))), HasSubstr("max_batched_tokens is 0"));
  ModelOptions options = Options();
  options.kv_cache_bytes = kPageBytes - 1;
  EXPECT_THAT(Message(LoadError(folder, options)), AllOf(HasSubstr("65535"), HasSubstr("65536")));
  options.kv_cache_bytes = -1;
  EXPECT_THAT(Message(LoadError(folder, options)), HasSubstr("-1"));

  folder.folder().Write("generation_config.json", R"({"top_p": 7})");
  EXPECT_THAT(Message(LoadError(folder)), HasSubstr("generation_config.json: top_p is 7"));
  folder.folder().Write("generation_config.json", "{}");
  folder.folder().Write("model.safetensors", "short");
  EXPECT_THAT(Message(LoadError(folder)), HasSubstr("model.safetensors: is truncated"));
}

TEST(LoadModelTest, TheDefaultCacheHoldsAFullContext) {
  ModelFolder folder;
  folder.config["max_position_embeddings"] = 1 << 20;
  folder.Write();
  // Only counts pages: this much is not to be touched by a test.
  class CountingBackend : public PlainBackend {
   public:
    absl::Status CreateKvCache(const KvCacheSpec&) override { return absl::OkStatus(); }
  };
  CountingBackend backend;
  ModelOptions options = Options();
  options.kv_cache_bytes = 0;
  const auto model = LoadModel(folder.path(), &backend, options);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GE((*model)->num_pages(), (1 << 20) / kPageTokens);
}

// A device with memory of its own, which counts its steps' rows.
class DeviceBackend : public PlainBackend {
 public:
  DeviceBackend() {
    device_.name = "test";
    device_.own_memory = true;
  }
  const DeviceInfo& device() const override { return device_; }
  void DownloadFloats(Matrix in, float* out) override {
    downloaded_rows_ += in.rows;
    PlainBackend::DownloadFloats(in, out);
  }
  int64_t AvailableMemory() const override { return 1 << 20; }
  void BeginStep(absl::Span<const SequenceSlice> slices) override {
    rows_.push_back(slices[0].num_tokens);
    PlainBackend::BeginStep(slices);
  }
  absl::Status Synchronize() override { return failure_; }

  DeviceInfo device_;
  std::vector<int> rows_;
  int64_t downloaded_rows_ = 0;
  absl::Status failure_;
};

TEST(TransformerTest, ADeviceGivesOfLogitsWhatIsAskedFor) {
  constexpr int kVocab = 1500;  // more than kMaxTopLogits
  ModelFolder folder(kVocab);
  folder.Write();
  PlainBackend plain;
  DeviceBackend device;
  const auto expected = LoadModel(folder.path(), &plain, Options());
  const auto model = LoadModel(folder.path(), &device, Options());
  ASSERT_TRUE(expected.ok() && model.ok()) << expected.status() << model.status();
  SequenceRunner expected_runner(expected->get(), 1), runner(model->get(), 1);
  const std::vector<int32_t> tokens = Tokens(100, kVocab);
  std::vector<int32_t> rows;
  std::vector<LogitsQuery> queries(100);
  int64_t whole = 0;
  for (int row = 0; row < 100; ++row) {  // more than there is room for at first
    rows.push_back(99 - row);
    queries[row].whole = row % 5 < 2;
    queries[row].temperature = 0.7f;
    queries[row].unit_sum = true;
    whole += queries[row].whole;
  }
  const StepOutput plain_output = expected_runner.Step({{0, tokens}}, rows, queries);
  const std::vector<float> all = Copy(plain_output);  // costs nothing there, so it gives all
  EXPECT_TRUE(plain_output.top_logits.empty());
  device.downloaded_rows_ = 0;
  const StepOutput output = runner.Step({{0, tokens}}, rows, queries);
  EXPECT_EQ(device.downloaded_rows_, whole);
  ASSERT_EQ(output.top_logits.size(), 100);
  for (int row = 0; row < 100; ++row) {
    const absl::Span<const float> logits = absl::MakeConstSpan(all).subspan(row * kVocab, kVocab);
    if (queries[row].whole) {
      EXPECT_EQ(output.logits.subspan(row * kVocab, kVocab), logits);
      continue;
    }
    TopLogits top;
    FindTopLogits(logits, queries[row], &top);
    const TopLogits& got = output.top_logits[row];
    ASSERT_EQ(got.count, top.count);
    EXPECT_TRUE(std::equal(top.tokens, top.tokens + top.count, got.tokens));
    EXPECT_EQ(got.sum, top.sum);
    const absl::StatusOr<absl::Span<const float>> fetched = (*model)->WholeRow(row);
    ASSERT_TRUE(fetched.ok()) << fetched.status();
    EXPECT_EQ(*fetched, logits);
    EXPECT_EQ(*(*expected)->WholeRow(row), logits);
  }
  // Whole rows where nothing is said, and the device's error where it fails.
  EXPECT_EQ(Copy(runner.Step({{0, {5}}}, {0})), Copy(expected_runner.Step({{0, {5}}}, {0})));
  device.failure_ = absl::InternalError("cuda: it is broken");
  EXPECT_EQ((*model)->WholeRow(0).status(), device.failure_);
}

TEST(LoadModelTest, ADeviceIsWarmWhenTheModelIsLoaded) {
  ModelFolder folder;
  folder.Write();
  ModelOptions options = Options();
  options.kv_cache_bytes = 0;
  DeviceBackend backend;
  const auto model = LoadModel(folder.path(), &backend, options);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(backend.rows_.size(), 4);
  EXPECT_GT(backend.rows_[0], 1);
  EXPECT_LE(backend.rows_[0], options.max_batched_tokens);
  for (int step = 1; step < 4; step++) EXPECT_EQ(backend.rows_[step], 1);

  DeviceBackend broken;
  broken.failure_ = absl::InternalError("cuda: it is broken");
  EXPECT_EQ(LoadModel(folder.path(), &broken, options).status(), broken.failure_);
}

}  // namespace
}  // namespace tauserve
