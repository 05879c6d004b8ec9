// Cases of prefill attention in device memory: paged caches of random or adversarial keys whose unused slots are NaN, and
// a double-precision reference for sampled rows.
#ifndef TAUSERVE_TESTS_GPU_PREFILL_CASE_H_
#define TAUSERVE_TESTS_GPU_PREFILL_CASE_H_

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/attention_args.h"

namespace tauserve::cuda {

// Which kernel takes the softmax heads.
enum class FlashKind { kFlash, kFlashSm90 };
inline const char* NameOf(FlashKind kind) {
  return kind == FlashKind::kFlash ? "flash" : "flash_sm90";
}

enum class Data { kNormal, kEqual, kFewLarge, kTies, kGrowing, kSpread, kTiny };

struct Case {
  std::string name;
  std::vector<std::pair<int, int>> slices;  // new tokens, context tokens
  int heads = 4, kv_heads = 2, dim = 64;
  std::vector<float> alpha = {1.5f};  // repeated over the heads
  std::vector<float> slope = {0.0f};
  int window = 0;
  bool causal = true;
  float query_scale = 0;  // spread of the per row and head scales around 1; 0 = none
  float sigma = 2;        // of the logits
  Data data = Data::kNormal;
  bool key_norm = false;
  FlashKind flash = FlashKind::kFlash;
  bool generic = false;  // attention_generic takes the entmax heads

  bool HasAlpha(bool softmax) const {
    return std::any_of(alpha.begin(), alpha.end(), [&](float a) { return (a == 1) == softmax; });
  }
};

// All that `prefill_check check` runs.
std::vector<Case> Cases();

// A case's tensors on the device.
class Problem {
 public:
  explicit Problem(const Case& c);
  ~Problem();
  Problem(const Problem&) = delete;

  void Run();
  AttentionArgs& args() { return args_; }
  void ClearStats();
  AttentionStats Stats() const;  // of the first slice
  // Whether what was counted of softmax heads is right; for cases without others.
  bool SoftmaxStatsAreRight() const;
  // The worst relative error of sampled rows; NaN counts as 1e9.
  double WorstError(int rows_a_slice, std::string* where);

 private:
  template <typename T>
  T* Own(T* p) {
    owned_.push_back(p);
    return p;
  }

  double RowError(int s, int token, int head) const;

  Case case_;
  std::vector<Slice> slices_;
  std::vector<int32_t> table_;
  std::vector<Head> heads_;
  std::vector<float> query_scale_;
  AttentionArgs args_;
  std::vector<void*> owned_;
  std::vector<__nv_bfloat16> keys_, values_, q_, out_;
};

}  // namespace tauserve::cuda

#endif  // TAUSERVE_TESTS_GPU_PREFILL_CASE_H_
