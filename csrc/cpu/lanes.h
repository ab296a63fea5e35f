// Vectors of numbers, of any size: the compiler makes as many registers of one as it takes.
#pragma once

#include <cstdint>
#include <cstring>

namespace svdprune::cpu {

// References, as returning such a vector is not the same on all instruction sets.
template <class T, int Bytes = 32>
struct Lanes {
  static constexpr int64_t kCount = Bytes / sizeof(T);
  using Vector [[gnu::vector_size(Bytes)]] = T;

  [[gnu::always_inline]] static inline void load(const T* p, Vector& vector) {
    std::memcpy(&vector, p, sizeof(vector));
  }
  [[gnu::always_inline]] static inline void store(const Vector& vector, T* p) {
    std::memcpy(p, &vector, sizeof(vector));
  }

  [[gnu::always_inline]] static inline T sum(const Vector& vector) {
    if constexpr (Bytes > 16) {
      using Half = Lanes<T, Bytes / 2>;
      typename Half::Vector halves[2];
      std::memcpy(halves, &vector, sizeof(vector));
      halves[0] += halves[1];
      return Half::sum(halves[0]);
    } else {
      T total = 0;
      for (int64_t lane = 0; lane < kCount; ++lane) {
        total += vector[lane];
      }
      return total;
    }
  }
};

}  // namespace svdprune::cpu
