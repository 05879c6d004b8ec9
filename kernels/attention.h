// What an attention kernel takes and returns: plain structs, the same for every backend. The contract is stated here
// once; kernels/reference fulfils it obviously, kernels/cpu and kernels/cuda fast.
//
// For query row i (absolute position) of query head h, over the visible keys j <= i (and j > i - sliding_window where
// there is a window; all keys where attention is not causal), with KV head h / (num_heads / num_kv_heads):
//     a_j = scale * query_scale[i][h] * (q . k_j) + alibi_slope[h] * (j - i)
//     p   = softmax(a)                                              for alpha[h] == 1
//     p_j = max((alpha - 1) a_j - tau, 0)^(1 / (alpha - 1)), sum 1  for 1 < alpha[h] <= 2   (Peters et al. 2019)
//     out = sum_j p_j v_j
// What training keeps of a row is tau, for softmax the log-sum-exp of a. With the loss's gradient dO by out, dP_j = dO . v_j
// and g_j = p_j^(2 - alpha) where p_j > 0, else 0:
//     da_j = g_j (dP_j - sum_k g_k dP_k / sum_k g_k)                                         (Peters et al. 2019)
//     dq = scale sum_j da_j k_j    dk_j += scale da_j q    dv_j += p_j dO
// Where a score equals tau this is the one-sided derivative from below: such a key gets none.
#ifndef TAUSERVE_KERNELS_ATTENTION_H_
#define TAUSERVE_KERNELS_ATTENTION_H_

#include <array>
#include <cstdint>
#include <vector>

namespace tauserve {

inline constexpr int kPageTokens = 64;  // tokens a KV page holds

using PageId = int32_t;

// One layer's attention; constant for the life of a model.
struct AttentionSpec {
  int num_heads = 0;
  int num_kv_heads = 0;            // divides num_heads
  int head_dim = 0;                // a multiple of 16 from 32 to 256
  float scale = 1;                 // usually 1 / sqrt(head_dim)
  int sliding_window = 0;          // keys a query sees, itself included; 0 = all
  bool causal = true;              // false: every query sees every key; no window, no bias then
  std::vector<float> alpha;        // [num_heads], each in [1, 2]
  std::vector<float> alibi_slope;  // [num_heads], >= 0; 0 = no bias
};

// One sequence's share of a step: `num_tokens` new tokens behind `context_tokens` cached ones.
struct SequenceSlice {
  int first_row = 0;       // its first token's row in the step's matrices
  int num_tokens = 0;      // >= 1
  int context_tokens = 0;  // tokens in the cache before this step = position of its first token
  const PageId* pages =
      nullptr;  // page table; ceil((context_tokens + num_tokens) / kPageTokens) entries are read
};

// All that a page holds, in every layer, copied to another page.
struct PageCopy {
  PageId from = -1;
  PageId to = -1;
};

// What attention did for one slice, summed over heads and layers of a step. Softmax heads count as considered, scored
// and supported keys alike, with no tau.
struct AttentionStats {
  static constexpr int kSupportBuckets = 21;  // bucket b: support in (2^(b-1), 2^b]
  static constexpr int kIterationBuckets =
      17;  // bucket b: b iterations; the last, that many or more

  int64_t rows = 0;             // (query, head) pairs with alpha > 1
  int64_t keys_considered = 0;  // visible keys, summed over rows
  int64_t keys_scored = 0;  // of those, scored in bytes or exactly: no page's bound ruled them out
  int64_t support = 0;      // of those, with p > 0
  int64_t blocks_considered =
      0;  // 64 queries (aligned to positions) of a head x a page with a visible key
  int64_t blocks_scored = 0;
  int64_t blocks_attended = 0;   // with a p > 0
  int64_t pages_considered = 0;  // page of one KV head x block of queries searched together
  int64_t pages_read = 0;        // pages whose keys were read
  int64_t kv_bytes_read = 0;
  int64_t entmax_support = 0;    // the part of `support` that is of entmax rows
  int64_t tau_iterations = 0;    // guarded root-finding steps after the histogram, summed over rows
  int64_t wide_rows = 0;         // rows whose candidates outgrew their buffer: exact slow path
  int64_t unconverged_rows = 0;  // rows where |sum p - 1| stayed above 1e-4
  double max_tau_residual = 0;   // largest |sum p - 1|
  std::array<int64_t, kSupportBuckets> support_histogram{};
  std::array<int64_t, kIterationBuckets> iteration_histogram{};

  void Add(const AttentionStats& other);
};

}  // namespace tauserve

#endif  // TAUSERVE_KERNELS_ATTENTION_H_
