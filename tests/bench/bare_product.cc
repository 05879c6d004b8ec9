// Compiled once for each instruction set, as the kernels are.
#include "kernels/cpu/score_tile.h"

namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE {

extern void (*const kBareProduct)(int rows, int pages, int head_dim);

namespace {

void Run(int rows, int pages, int head_dim) {
  constexpr int R = kTileRows;
  static float queries[kPaddedRows * 256], tile[kPageTokens * 256];  // zeros: no slower than others
  QueryBlock q;
  q.rows = queries;
  q.pairs = reinterpret_cast<uint32_t*>(queries);
  for (int page = 0; page < pages; page++) {
    for (int row = 0; row < rows; row += R) {
      for (int part = 0; part < kPageParts; part++) {
        Tile<R> acc;
        TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS acc[r][v] = F{}; }
        ScoreTile<DataType::kBFloat16, R>(q, row, tile, head_dim, part, acc);
        TAUSERVE_TILE_ROWS { TAUSERVE_TILE_VECTORS asm volatile("" : : "x"(acc[r][v])); }
      }
    }
  }
}

}  // namespace

void (*const kBareProduct)(int rows, int pages, int head_dim) = Run;

}  // namespace tauserve::cpu::TAUSERVE_ISA_NAMESPACE
