// Stages 1 to 3 of the CPU backend for one image, as a program of its own for another kind of processor:
//   program FILE N D float32|float16 VARIANCE
// reads features [N, D], writes the rank, the steps that "tridiag" took and N scores.

#include "../../csrc/cpu/score.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

// In place of libtorch's BLAS; of LAPACK, which "tridiag" needs for multiple eigenvalues alone, there is nothing.
template <class T>
void multiply(const char* transa, const char* transb, const int* m, const int* n, const int* k,
              const T* alpha, const T* a, const int* lda, const T* b, const int* ldb, const T* beta,
              T* c, const int* ldc) {
  for (int j = 0; j < *n; ++j) {
    for (int i = 0; i < *m; ++i) {
      T sum = 0;
      for (int l = 0; l < *k; ++l) {
        sum += (*transa == 'N' ? a[l * *lda + i] : a[i * *lda + l]) *
               (*transb == 'N' ? b[j * *ldb + l] : b[l * *ldb + j]);
      }
      T& to = c[j * *ldc + i];
      to = *alpha * sum + (*beta == 0 ? 0 : *beta * to);
    }
  }
}

extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc) {
  multiply(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc) {
  multiply(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void ssyevd_(const char*, const char*, const int*, float*, const int*, float*, float*, const int*,
             int*, const int*, int*) {
  std::abort();
}
void dsyevd_(const char*, const char*, const int*, double*, const int*, double*, double*,
             const int*, int*, const int*, int*) {
  std::abort();
}
}

int main(int count, char** arguments) {
  using namespace svdprune;
  if (count != 6) {
    return 2;
  }
  std::ifstream file(arguments[1], std::ios::binary);
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  const bool half = std::strcmp(arguments[4], "float16") == 0;
  Image image{};
  image.data = bytes.data();
  image.dtype = half ? ScalarType::Half : ScalarType::Float;
  image.tokens = std::atol(arguments[2]);
  image.features = std::atol(arguments[3]);
  image.token_stride = image.features;
  image.feature_stride = 1;
  Options options;
  options.variance = std::atof(arguments[5]);
  options.solver = Solver::kTridiag;
  std::vector<float> scores(image.tokens);
  cpu::Crew alone;
  const cpu::Solved solved = cpu::score_image(alone, image, options, scores.data());
  std::printf("%ld %ld\n", static_cast<long>(solved.rank), static_cast<long>(solved.steps));
  for (const float score : scores) {
    std::printf("%.9g\n", score);
  }
}
