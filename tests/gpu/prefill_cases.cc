// The cases of prefill_check.
#include "tests/gpu/prefill_case.h"

namespace tauserve::cuda {
namespace {

// Softmax heads, for both kernels.
void AddFlashCases(std::vector<Case>& cases) {
  std::vector<Case> added;
  auto add = [&](Case c) {
    c.name = "flash d" + std::to_string(c.dim) + " " + c.name;
    added.push_back(std::move(c));
  };
  const std::vector<float> one = {1};
  for (int dim : {32, 48, 64, 80, 96, 112, 128, 192, 208, 256}) {
    add({.name = "ragged",
         .slices = {{70, 0}, {1, 300}, {513, 1000}, {5, 0}, {64, 64}},
         .dim = dim,
         .alpha = one});
    add({.name = "odd", .slices = {{1001, 0}}, .dim = dim, .alpha = one});
  }
  for (int dim : {64, 128, 256}) {
    add({.name = "one token", .slices = {{1, 0}}, .dim = dim, .alpha = one});
    add({.name = "short", .slices = {{37, 0}}, .dim = dim, .alpha = one});
    add({.name = "block", .slices = {{128, 0}}, .dim = dim, .alpha = one});
    add({.name = "long", .slices = {{4096, 0}}, .dim = dim, .alpha = one});
    add({.name = "wide", .slices = {{2048, 0}}, .dim = dim, .alpha = one, .sigma = 0.3f});
    add({.name = "equal", .slices = {{1500, 0}}, .dim = dim, .alpha = one, .data = Data::kEqual});
    add({.name = "mha", .slices = {{700, 0}}, .heads = 3, .kv_heads = 3, .dim = dim, .alpha = one});
    add({.name = "gqa 3",
         .slices = {{700, 33}},
         .heads = 6,
         .kv_heads = 2,
         .dim = dim,
         .alpha = one});
    add({.name = "gqa 8",
         .slices = {{700, 33}},
         .heads = 8,
         .kv_heads = 1,
         .dim = dim,
         .alpha = one});
    add({.name = "chunk", .slices = {{300, 5000}}, .dim = dim, .alpha = one});
    add({.name = "parts", .slices = {{64, 20000}}, .dim = dim, .alpha = one});
    add({.name = "parts ragged",
         .slices = {{3, 9000}, {70, 0}, {1, 30}},
         .dim = dim,
         .alpha = one,
         .slope = {0, 0.01f}});
    add({.name = "parts window", .slices = {{40, 9000}}, .dim = dim, .alpha = one, .window = 5000});
    add({.name = "parts not causal",
         .slices = {{60, 9000}},
         .dim = dim,
         .alpha = one,
         .causal = false});
    add({.name = "few large",
         .slices = {{4096, 0}},
         .dim = dim,
         .alpha = one,
         .data = Data::kFewLarge});
    add({.name = "growing",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .data = Data::kGrowing});
    add({.name = "spread",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .sigma = 30,
         .data = Data::kSpread});
    add({.name = "tiny", .slices = {{1000, 0}}, .dim = dim, .alpha = one, .data = Data::kTiny});
    add({.name = "not causal",
         .slices = {{500, 77}, {100, 0}},
         .dim = dim,
         .alpha = one,
         .causal = false});
    add({.name = "window", .slices = {{1500, 100}}, .dim = dim, .alpha = one, .window = 300});
    add({.name = "window 5", .slices = {{900, 0}}, .dim = dim, .alpha = one, .window = 5});
    add({.name = "alibi",
         .slices = {{3000, 0}},
         .dim = dim,
         .alpha = one,
         .slope = {0.05f, 0, 0.5f, 1}});
    add({.name = "query scale", .slices = {{1500, 0}}, .dim = dim, .alpha = one, .query_scale = 1});
    add({.name = "query scale alibi",
         .slices = {{1500, 0}},
         .dim = dim,
         .alpha = one,
         .slope = {0.02f},
         .query_scale = 0.3f});
    add({.name = "alpha mix", .slices = {{1500, 100}}, .dim = dim, .alpha = {1, 1.5f, 1, 1}});
    add({.name = "alpha mix mha",
         .slices = {{300, 100}},
         .kv_heads = 4,
         .dim = dim,
         .alpha = {1.5f, 1}});
  }
  for (Case& c : added) {
    cases.push_back(c);
    c.flash = FlashKind::kFlashSm90;
    cases.push_back(c);
  }
}

}  // namespace

std::vector<Case> Cases() {
  std::vector<Case> cases;
  auto add = [&](Case c) { cases.push_back(std::move(c)); };
  for (int dim : {64, 128, 96, 256}) {
    const std::string d = "d" + std::to_string(dim) + " ";
    add({.name = d + "one token", .slices = {{1, 0}}, .dim = dim});
    add({.name = d + "short", .slices = {{37, 0}}, .dim = dim});
    add({.name = d + "one block", .slices = {{192, 0}}, .heads = 2, .dim = dim});
    add({.name = d + "odd", .slices = {{1001, 0}}, .dim = dim});
    add({.name = d + "long", .slices = {{4096, 0}}, .dim = dim});
    add({.name = d + "wide", .slices = {{2048, 0}}, .dim = dim, .sigma = 0.3f});
    add({.name = d + "wider", .slices = {{2050, 0}}, .dim = dim, .sigma = 0.05f});
    add({.name = d + "equal", .slices = {{1500, 0}}, .dim = dim, .data = Data::kEqual});
    add({.name = d + "ragged",
         .slices = {{70, 0}, {1, 300}, {513, 1000}, {5, 0}, {64, 64}},
         .dim = dim});
  }
  for (int dim : {64, 128}) {
    const std::string d = "d" + std::to_string(dim) + " ";
    add({.name = d + "mha", .slices = {{700, 0}}, .heads = 3, .kv_heads = 3, .dim = dim});
    add({.name = d + "gqa 3", .slices = {{700, 33}}, .heads = 6, .kv_heads = 2, .dim = dim});
    add({.name = d + "gqa 8", .slices = {{700, 33}}, .heads = 8, .kv_heads = 1, .dim = dim});
    add({.name = d + "chunk", .slices = {{300, 5000}}, .dim = dim});
    add({.name = d + "parts", .slices = {{500, 20000}}, .dim = dim});
    add({.name = d + "parts wide", .slices = {{200, 20000}, {3, 0}}, .dim = dim, .sigma = 0.4f});
    add({.name = d + "parts alibi",
         .slices = {{200, 12000}},
         .dim = dim,
         .slope = {0, 0.01f},
         .window = 9000});
    add({.name = d + "sigma 1", .slices = {{4096, 0}}, .dim = dim, .sigma = 1});
    add({.name = d + "sigma 0.5", .slices = {{4096, 0}}, .dim = dim, .sigma = 0.5f});
    add({.name = d + "few large", .slices = {{4096, 0}}, .dim = dim, .data = Data::kFewLarge});
    add({.name = d + "ties", .slices = {{2000, 0}}, .dim = dim, .data = Data::kTies});
    add({.name = d + "growing", .slices = {{3000, 0}}, .dim = dim, .data = Data::kGrowing});
    add({.name = d + "spread",
         .slices = {{3000, 0}},
         .dim = dim,
         .sigma = 30,
         .data = Data::kSpread});
    add({.name = d + "tiny", .slices = {{1000, 0}}, .dim = dim, .data = Data::kTiny});
    add({.name = d + "not causal", .slices = {{500, 77}, {100, 0}}, .dim = dim, .causal = false});
    add({.name = d + "window", .slices = {{1500, 100}}, .dim = dim, .window = 300});
    add({.name = d + "window 5", .slices = {{900, 0}}, .dim = dim, .window = 5});
    add({.name = d + "wide window",
         .slices = {{1500, 0}},
         .dim = dim,
         .window = 700,
         .sigma = 0.2f});
    add({.name = d + "alibi", .slices = {{3000, 0}}, .dim = dim, .slope = {0.05f, 0, 0.5f, 1}});
    add({.name = d + "alibi bound",
         .slices = {{3000, 500}},
         .dim = dim,
         .slope = {0.05f, 0.1f, 0.5f, 1},
         .key_norm = true});
    add({.name = d + "alibi wide",
         .slices = {{2000, 0}},
         .dim = dim,
         .slope = {1e-4f},
         .sigma = 0.1f});
    add({.name = d + "query scale", .slices = {{1500, 0}}, .dim = dim, .query_scale = 1});
    add({.name = d + "query scale alibi",
         .slices = {{1500, 0}},
         .dim = dim,
         .slope = {0.02f},
         .query_scale = 0.3f});
    add({.name = d + "alpha 2", .slices = {{2000, 0}}, .dim = dim, .alpha = {2}});
    add({.name = d + "alpha 2 wide",
         .slices = {{2000, 0}},
         .dim = dim,
         .alpha = {2},
         .sigma = 0.01f});
    // The first tile's floor leaves sums of nearly 3.
    add({.name = d + "alpha 2 equal",
         .slices = {{355, 0}, {360, 0}, {370, 0}},
         .dim = dim,
         .alpha = {2},
         .data = Data::kEqual});
    add({.name = d + "alpha 1.25 equal",
         .slices = {{355, 0}, {1370, 0}},
         .dim = dim,
         .alpha = {1.25f},
         .data = Data::kEqual});
    add({.name = d + "alpha 1.25", .slices = {{2000, 0}}, .dim = dim, .alpha = {1.25f}});
    add({.name = d + "alpha mix",
         .slices = {{1500, 100}},
         .dim = dim,
         .alpha = {1.1f, 1, 1.75f, 1.5f}});
    add({.name = d + "alpha mix wide",
         .slices = {{1500, 100}},
         .dim = dim,
         .alpha = {1.3f, 1, 2, 1.5f},
         .sigma = 0.1f});
  }
  AddFlashCases(cases);
  return cases;
}

}  // namespace tauserve::cuda
