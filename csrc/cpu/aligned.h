// Memory for vectors: arrays that begin at a cache line.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace svdprune::cpu {

constexpr std::align_val_t kCacheLine{64};

struct ReleaseAligned {
  template <class T>
  void operator()(T* p) const {
    ::operator delete[](p, kCacheLine);
  }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], ReleaseAligned>;

// `count` numbers of 0.
template <class T>
AlignedArray<T> aligned_zeros(int64_t count) {
  return AlignedArray<T>(new (kCacheLine) T[count]());
}

// `count` numbers, not initialised.
template <class T>
AlignedArray<T> aligned_array(int64_t count) {
  return AlignedArray<T>(static_cast<T*>(::operator new[](count * sizeof(T), kCacheLine)));
}

}  // namespace svdprune::cpu
