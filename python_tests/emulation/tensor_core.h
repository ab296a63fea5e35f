// csrc/cuda/tensor_core.cuh for a warp of fibres. A copy happens when it is waited for, so a wait
// that is missing shows. Products are exact and their sum is rounded once an instruction; the order
// and rounding inside a device's tensor cores are not modelled.
#pragma once

#include "intrinsics.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace svdprune::cuda {

inline void copy_async(void* to, const void* from, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    emulation::fail("copy_async: not aligned to 16 bytes");
  }
  emulation::races::read(from,
                         static_cast<size_t>(bytes));  // from now on, and until it is waited for
  emulation::races::write(to, 16);
  const emulation::races::Pause pause;
  emulation::current->copies.back().push_back({to, from, static_cast<size_t>(bytes)});
}

inline void commit_copies() {
  const emulation::races::Pause pause;
  emulation::current->copies.emplace_back();
}

template <int newest>
void wait_for_copies() {
  const emulation::races::Pause pause;
  auto& groups = emulation::current->copies;  // the last one is not committed
  while (groups.size() > newest + 1) {
    for (const emulation::Copy& copy : groups.front()) {
      emulation::races::read(copy.from, copy.bytes);
      emulation::races::write(copy.to, 16);
      std::memset(copy.to, 0, 16);
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

inline void load_matrices(uint32_t (&matrices)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    emulation::fail("load_matrices: not aligned to 16 bytes");
  }
  const auto rows = emulation::show(row);
  const unsigned lane = emulation::current->lane;
  for (unsigned m = 0; m < 4; ++m) {
    const auto* from = static_cast<const unsigned char*>(rows[8 * m + lane / 4]);
    std::memcpy(&matrices[m], from + 4 * (lane % 4), 4);
  }
  __syncwarp();  // no lane goes on to overwrite what another still reads
}

// Number `half` (0 or 1) of a register.
template <class S>
double number_in(uint32_t word, unsigned half) {
  S number;
  std::memcpy(&number, reinterpret_cast<const unsigned char*>(&word) + 2 * half, 2);
  return static_cast<double>(static_cast<float>(number));
}

template <class S>
void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  const auto shown = emulation::show(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const unsigned g = emulation::current->lane / 4, t = emulation::current->lane % 4;
  for (unsigned s = 0; s < 4; ++s) {
    const unsigned lower = s / 2, column = 2 * t + s % 2;  // row g + 8 lower
    double sum = sums[s];
    for (unsigned k = 0; k < 16; ++k) {
      const unsigned right = k / 8, holder = k % 8 / 2;
      sum += number_in<S>(shown[4 * g + holder].a[lower + 2 * right], k % 2) *
             number_in<S>(shown[4 * column + holder].b[right], k % 2);
    }
    sums[s] = static_cast<float>(sum);
  }
}

}  // namespace svdprune::cuda
