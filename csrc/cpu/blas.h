// The BLAS and LAPACK routines that libtorch carries and exports by their Fortran names, overloaded
// on the number type. Calling them directly, and not through ATen, keeps the stages framework-free,
// out of torch.autocast's reach, and in control of their memory. Matrices are column-major; LP64
// integers.
#pragma once

#include <cstdint>
#include <vector>

extern "C" {
void sgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb,
            const float* beta, float* c, const int* ldc);
void dgemm_(const char* transa, const char* transb, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb,
            const double* beta, double* c, const int* ldc);
void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a, const int* lda, float* w,
             float* work, const int* lwork, int* iwork, const int* liwork, int* info);
void dsyevd_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
             double* work, const int* lwork, int* iwork, const int* liwork, int* info);
}

namespace svdprune::cpu {

// C [m, n] = op(A) op(B) + beta C, with op(A) [m, k] and op(B) [k, n].
template <class T>
void gemm(char transa, char transb, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,
          const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  const int mi = m, ni = n, ki = k, la = lda, lb = ldb, lc = ldc;
  const T one = 1;
  if constexpr (sizeof(T) == 4) {
    sgemm_(&transa, &transb, &mi, &ni, &ki, &one, a, &la, b, &lb, &beta, c, &lc);
  } else {
    dgemm_(&transa, &transb, &mi, &ni, &ki, &one, a, &la, b, &lb, &beta, c, &lc);
  }
}

// Eigenvalues (ascending) and eigenvectors of a symmetric matrix whose lower triangle is in `a` [n, n], of leading
// dimension lda; the eigenvectors replace it, one a column. Returns LAPACK's info: 0 is success. Divide and conquer
// needs 2 n^2 numbers of workspace, allocated here.
template <class T>
int syevd(int64_t n, T* a, int64_t lda, T* eigenvalues) {
  const int ni = n, la = lda;
  const int lwork = 1 + 6 * ni + 2 * ni * ni;
  const int liwork = 3 + 5 * ni;
  std::vector<T> work(lwork);
  std::vector<int> iwork(liwork);
  int info = 0;
  if constexpr (sizeof(T) == 4) {
    ssyevd_("V", "L", &ni, a, &la, eigenvalues, work.data(), &lwork, iwork.data(), &liwork, &info);
  } else {
    dsyevd_("V", "L", &ni, a, &la, eigenvalues, work.data(), &lwork, iwork.data(), &liwork, &info);
  }
  return info;
}

}  // namespace svdprune::cpu
