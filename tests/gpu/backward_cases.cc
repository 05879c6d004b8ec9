// The cases of backward_check.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/backward_case.h"

namespace tauserve::cuda {
namespace {

using Add = std::function<void(BackwardCase)>;

void AddBfloat16Cases(const Add& add) {
  add({.name = "causal", .sequences = {{700, 0}}});
  add({.name = "one token", .sequences = {{1, 0}}});
  add({.name = "ragged", .sequences = {{70, 0}, {1, 0}, {129, 0}, {5, 0}, {64, 0}, {300, 0}}});
  add({.name = "contexts", .sequences = {{70, 100}, {1, 300}, {64, 64}}});
  add({.name = "not causal", .sequences = {{200, 0}, {70, 30}}, .causal = false});
  add({.name = "window", .sequences = {{500, 0}, {100, 50}}, .window = 90});
  add({.name = "alibi", .sequences = {{600, 0}}, .slope = {0.5f, 0.01f}});
  add({.name = "alpha 1.25", .sequences = {{400, 0}}, .alpha = {1.25f}});
  add({.name = "alpha 2", .sequences = {{500, 0}}, .alpha = {2}});
  add({.name = "alphas", .sequences = {{400, 0}}, .alpha = {1.5f, 1.1f, 2, 1.75f}});
  add({.name = "wide", .sequences = {{500, 0}}, .sigma = 0.1f});
  add({.name = "equal", .sequences = {{300, 0}}, .keys = TrainedKeys::kEqual});
  add({.name = "few large", .sequences = {{600, 0}}, .keys = TrainedKeys::kFewLarge});
  add({.name = "sink", .sequences = {{1500, 0}}, .keys = TrainedKeys::kSink});
  add({.name = "long rows", .sequences = {{70, 60000}}, .heads = 2, .sigma = 0.13f});
  add({.name = "narrow", .sequences = {{600, 0}}, .sigma = 30});
  add({.name = "mha", .sequences = {{400, 0}}, .heads = 3, .kv_heads = 3});
  add({.name = "gqa 3", .sequences = {{300, 0}}, .heads = 6, .kv_heads = 2});
  add({.name = "gqa 8", .sequences = {{300, 0}}, .heads = 8, .kv_heads = 1});
  add({.name = "deterministic",
       .sequences = {{900, 0}, {200, 0}},
       .keys = TrainedKeys::kSink,
       .deterministic = true});
}

void AddFloat16Cases(const Add& add) {
  add({.name = "ragged", .sequences = {{70, 0}, {1, 0}, {129, 300}, {64, 64}}});
  add({.name = "not causal", .sequences = {{200, 0}, {70, 30}}, .causal = false});
  add({.name = "window", .sequences = {{300, 0}, {100, 50}}, .window = 90});
  add({.name = "alibi", .sequences = {{400, 0}}, .slope = {0.5f, 0.01f}});
  add({.name = "alpha 1.25", .sequences = {{300, 0}}, .alpha = {1.25f}});
  add({.name = "alpha 2", .sequences = {{300, 0}}, .alpha = {2}});
  add({.name = "alphas", .sequences = {{300, 0}}, .alpha = {1.5f, 1.1f, 2, 1.75f}});
  add({.name = "wide", .sequences = {{500, 0}}, .sigma = 0.1f});
  add({.name = "equal", .sequences = {{300, 0}}, .keys = TrainedKeys::kEqual});
  add({.name = "few large", .sequences = {{400, 0}}, .keys = TrainedKeys::kFewLarge});
  add({.name = "long rows", .sequences = {{7, 60000}}, .heads = 2, .sigma = 0.13f});
  add({.name = "narrow", .sequences = {{300, 0}}, .sigma = 30});
  add({.name = "gqa 8", .sequences = {{300, 0}}, .heads = 8, .kv_heads = 1});
  add({.name = "deterministic",
       .sequences = {{500, 0}, {200, 0}},
       .keys = TrainedKeys::kSink,
       .deterministic = true});
  // dS far over 65504, or below the smallest normal float16, in gradients that are neither.
  add({.name = "large gradients",
       .sequences = {{500, 0}},
       .sigma = 1e-3f,
       .value_size = 1e3f,
       .gradient_size = 100});
  add({.name = "small gradients",
       .sequences = {{500, 0}},
       .sigma = 0.1f,
       .value_size = 0.01f,
       .gradient_size = 0.01f});
  add({.name = "large values",
       .sequences = {{500, 0}},
       .sigma = 0.1f,
       .value_size = 1.2e4f,
       .gradient_size = 0.01f});
  add({.name = "large output gradients",
       .sequences = {{500, 0}},
       .sigma = 0.1f,
       .value_size = 0.01f,
       .gradient_size = 5e3f});
  for (float size : {1e-3f, 1e3f}) {
    add({.name = size < 1 ? "large keys" : "large queries",
         .sequences = {{500, 0}},
         .sigma = 0.3f,
         .query_size = size});
  }
}

}  // namespace

std::vector<BackwardCase> BackwardCases() {
  std::vector<BackwardCase> cases;
  for (int dim : {64, 96, 128, 256}) {
    for (double kept : {4000.0, 0.0, 12.0}) {
      const std::string start = "d" + std::to_string(dim) +
                                (kept == 0   ? " dense "
                                 : kept < 50 ? " mixed "
                                             : " lists ");
      auto add = [&](BackwardCase c) {
        c.name = start + c.name;
        c.dim = dim;
        c.kept_a_row = kept;
        cases.push_back(std::move(c));
      };
      AddBfloat16Cases(add);
      AddFloat16Cases([&](BackwardCase c) {
        c.name = "float16 " + c.name;
        c.float16 = true;
        add(std::move(c));
      });
    }
  }
  return cases;
}

}  // namespace tauserve::cuda
