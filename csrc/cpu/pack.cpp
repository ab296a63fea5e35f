#include "pack.h"

#include "../scaling.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace svdprune::cpu {

namespace {

// Calls f(const S* data) with the image's number type S.
template <class F>
void with_data(const Image& image, F&& f) {
  switch (image.dtype) {
    case ScalarType::Double:
      return f(static_cast<const double*>(image.data));
    case ScalarType::Float:
      return f(static_cast<const float*>(image.data));
    case ScalarType::Half:
      return f(static_cast<const torch::headeronly::Half*>(image.data));
    case ScalarType::BFloat16:
      return f(static_cast<const torch::headeronly::BFloat16*>(image.data));
    default:
      throw std::logic_error("svdprune: dtype not checked at the boundary");
  }
}

template <class T>
constexpr ScalarType kScalarType =
    std::is_same_v<T, float> ? ScalarType::Float : ScalarType::Double;

}  // namespace

template <class T>
void pack(const Image& image, const Transform& transform, int64_t first_token, int64_t tokens,
          int64_t first_feature, int64_t features, T* out, int64_t ld) {
  with_data(image, [&](const auto* data) {
    for (int64_t i = 0; i < tokens; ++i) {
      const auto* row =
          data + (first_token + i) * image.token_stride + first_feature * image.feature_stride;
      T* out_row = out + i * ld;
      if (transform.identity()) {
        for (int64_t j = 0; j < features; ++j) {
          out_row[j] = static_cast<T>(row[j * image.feature_stride]);
        }
        continue;
      }
      for (int64_t j = 0; j < features; ++j) {
        const double mean = transform.mean.empty() ? 0 : transform.mean[first_feature + j];
        const double value = static_cast<double>(row[j * image.feature_stride]);
        out_row[j] = static_cast<T>(centered(value, mean, image.tokens) * transform.scale);
      }
    }
  });
}

template <class T>
const T* direct(const Image& image, const Transform& transform) {
  const bool readable = image.dtype == kScalarType<T> && image.feature_stride == 1 &&
                        image.token_stride >= image.features &&
                        image.token_stride <= std::numeric_limits<int>::max() &&
                        transform.identity();
  return readable ? static_cast<const T*>(image.data) : nullptr;
}

std::vector<double> feature_means(const Image& image) {
  std::vector<double> mean(image.features, 0);
  const double tokens = static_cast<double>(image.tokens);
  with_data(image, [&](const auto* data) {
    for (int64_t i = 0; i < image.tokens; ++i) {
      const auto* row = data + i * image.token_stride;
      for (int64_t j = 0; j < image.features; ++j) {
        // Divided first: the sum of float64 features may overflow.
        mean[j] += static_cast<double>(row[j * image.feature_stride]) / tokens;
      }
    }
  });
  return mean;
}

double largest_magnitude(const Image& image, const Transform& transform) {
  double largest = 0;
  with_data(image, [&](const auto* data) {
    for (int64_t i = 0; i < image.tokens; ++i) {
      const auto* row = data + i * image.token_stride;
      for (int64_t j = 0; j < image.features; ++j) {
        const double mean = transform.mean.empty() ? 0 : transform.mean[j];
        const double value =
            centered(static_cast<double>(row[j * image.feature_stride]), mean, image.tokens);
        if (!std::isfinite(value)) {
          throw NotFinite();
        }
        largest = std::max(largest, std::fabs(value));
      }
    }
  });
  return largest;
}

template void pack(const Image&, const Transform&, int64_t, int64_t, int64_t, int64_t, float*,
                   int64_t);
template void pack(const Image&, const Transform&, int64_t, int64_t, int64_t, int64_t, double*,
                   int64_t);
template const float* direct(const Image&, const Transform&);
template const double* direct(const Image&, const Transform&);

}  // namespace svdprune::cpu
