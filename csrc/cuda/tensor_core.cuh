// Asynchronous copies into shared memory, and products of 16-bit matrices with float32 sums: PTX of
// sm_80 and later, under names. All lanes of a warp call the matrix functions together.
//
// Fragments, as in the PTX ISA's pictures of mma.m16n8k16, lane = 4 g + t: of A [16, 16], register 0
// holds row g, columns 2t and 2t + 1; register 1 row g + 8; 2 and 3 the same in columns 8 to 15. Of
// B [16, 8], register 0 holds rows 2t and 2t + 1 of column g; 1 the same in rows 8 to 15. Of the
// sums [16, 8], 0 and 1 are columns 2t and 2t + 1 of row g; 2 and 3 the same in row g + 8.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace svdprune::cuda {

#ifndef SVDPRUNE_EMULATED  // which has its own

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// 16 bytes, of which the first `bytes` are read and the others zeros. Both addresses are aligned to
// 16 bytes, and `from` may be read even where `bytes` is 0.
__device__ inline void copy_async(void* to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes)
               : "memory");
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until all but the `newest` groups of this thread are there.
template <int newest>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers: lane i points to row i % 8 of matrix i / 8 in shared
// memory, 16 bytes aligned to as many; it gets numbers 2t and 2t + 1 of row g of each.
__device__ inline void load_matrices(uint32_t (&matrices)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(shared_address(row))
               : "memory");
}

// sums += A B.
template <class S>
__device__ void multiply_add(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply_add<__half>(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ inline void multiply_add<__nv_bfloat16>(float (&sums)[4], const uint32_t (&a)[4],
                                                   uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

}  // namespace svdprune::cuda
