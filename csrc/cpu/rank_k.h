// The symmetric rank-k product of the Gram stage: G (+)= P P^T, lower triangle only.
#pragma once

#include "crew.h"
#include "square_matrix.h"
#include "tile.h"

#include <cstdint>
#include <functional>

namespace svdprune::cpu {

constexpr int64_t kPanelDepth = 256;

// Rows first .. first + count and columns k .. k + depth of P [n, K], as a panel [depth, width] that holds row
// first + i in its column i. count <= width, depth <= kPanelDepth.
struct PanelBlock {
  int64_t first, count, k, depth, width;
};

// Writes a block to its panel, columns 0 .. count; called on several threads.
template <class T>
using FillPanel = std::function<void(const PanelBlock& block, T* panel)>;

// The lower triangle of `product` becomes that of P P^T, P [n, K]. Some of the upper triangle, next to the diagonal, is
// overwritten.
template <class T>
void rank_k_product(Crew& crew, int64_t depth, const FillPanel<T>& fill, SquareMatrix<T>& product,
                    InstructionSet set = best_instruction_set());

}  // namespace svdprune::cpu
