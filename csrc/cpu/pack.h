// Reading features: from any dtype and any strides into a dense panel of the working precision.
#pragma once

#include "../image.h"

#include <stdexcept>
#include <vector>

namespace svdprune::cpu {

// NaN or Inf among the features of one image.
struct NotFinite : std::runtime_error {
  NotFinite() : std::runtime_error("NaN or Inf") {}
};

// How a feature enters the computation: (x - mean[feature]) * scale.
struct Transform {
  std::vector<double> mean;  // [features], or empty: no centring
  double scale = 1;          // a power of two

  bool identity() const {
    return mean.empty() && scale == 1;
  }
};

// out [tokens, features], its rows `ld` apart: the transformed features of a block of the image.
template <class T>
void pack(const Image& image, const Transform& transform, int64_t first_token, int64_t tokens,
          int64_t first_feature, int64_t features, T* out, int64_t ld);

// The features themselves when they can be read as a row-major matrix of T, else nullptr.
template <class T>
const T* direct(const Image& image, const Transform& transform);

// Mean over the tokens: [features].
std::vector<double> feature_means(const Image& image);

// max |x - mean|. Throws NotFinite.
double largest_magnitude(const Image& image, const Transform& transform);

}  // namespace svdprune::cpu
