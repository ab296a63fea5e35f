#include "gather.h"

#include <cstring>

namespace svdprune::cpu {

namespace {

// A row of features that do not lie side by side, copied as integers of their width.
template <class Word>
void copy_strided(const char* source, int64_t stride, int64_t features, char* row) {
  const Word* from = reinterpret_cast<const Word*>(source);
  Word* to = reinterpret_cast<Word*>(row);
  for (int64_t j = 0; j < features; ++j) {
    to[j] = from[j * stride];
  }
}

}  // namespace

void gather(const Image& image, const int64_t* indices, int64_t keep, void* tokens) {
  const int64_t width = width_of(image.dtype);
  const int64_t row_bytes = image.features * width;
  if (row_bytes == 0) {
    return;  // there may be no memory to point to
  }
  for (int64_t k = 0; k < keep; ++k) {
    char* row = static_cast<char*>(tokens) + k * row_bytes;
    if (indices[k] < 0) {
      std::memset(row, 0, row_bytes);
      continue;
    }
    const char* source =
        static_cast<const char*>(image.data) + indices[k] * image.token_stride * width;
    if (image.feature_stride == 1) {
      std::memcpy(row, source, row_bytes);
    } else if (width == 2) {
      copy_strided<uint16_t>(source, image.feature_stride, image.features, row);
    } else if (width == 4) {
      copy_strided<uint32_t>(source, image.feature_stride, image.features, row);
    } else {
      copy_strided<uint64_t>(source, image.feature_stride, image.features, row);
    }
  }
}

}  // namespace svdprune::cpu
