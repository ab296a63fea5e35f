// Memory for vectors: arrays that begin at a cache line.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace svdprune::cpu {

constexpr int64_t kCacheLine = 64;  // bytes

struct Release {
  void* memory = nullptr;

  void operator()(const void* /*begin*/) const {
    ::operator delete(memory);
  }
};

template <class T>
using AlignedArray = std::unique_ptr<T[], Release>;

// `count` numbers, not initialised. Aligned by hand: what malloc cuts off from memory that it aligns goes to small
// pieces, which keep the rest from being used again by the next call.
template <class T>
AlignedArray<T> aligned_array(int64_t count) {
  size_t room = count * sizeof(T) + kCacheLine;
  void* const memory = ::operator new(room);
  void* begin = memory;
  std::align(kCacheLine, count * sizeof(T), begin, room);
  return AlignedArray<T>(static_cast<T*>(begin), Release{memory});
}

// `count` numbers of 0.
template <class T>
AlignedArray<T> aligned_zeros(int64_t count) {
  AlignedArray<T> array = aligned_array<T>(count);
  std::fill_n(array.get(), count, T(0));
  return array;
}

}  // namespace svdprune::cpu
