// Note [pivoted rows]
// What is left of token i outside the span of the tokens picked is d_i, at first its squared length. Each step
// picks the token of which most is left, p, and takes its direction out of all others: with G = X X^T,
//     w = (G[:, p] - sum over earlier picks of w_l w_l[p]) / sqrt(d_p),    d_i <- d_i - w_i^2.
// That is QR with column pivoting on X^T (Businger, Golub 1965), which is the Cholesky factorisation of G with
// diagonal pivoting, which is greedy MAP inference of the determinantal point process of kernel G (Chen, Zhang,
// Zhou 2018, whose update this is). Of G it needs the diagonal and a column a step: O(n k) work in step k, and no
// eigenvectors. ||w||^2 is the energy that the pick adds to what the picks span.
//
// Note [what is left of a token]
// Rounding leaves a copy of a picked token some eps of its squared length, in place of nothing. So a token of
// which no more than kLeft of its squared length is left counts as explained: it comes when all are, by its index.
// Tokens whose d_i differ by less than kTie of it count as equal, and the lower index wins: copies of one token,
// whose products may have been summed in different orders, would else be at rounding's mercy.
//
// Note [columns on demand]
// The Gram matrix costs N^2 D / 2 multiplications; K picks ask for K of its columns, some more are made along with
// them (Note [columns together]), and each costs N D. Up to N / 8 picks are cheaper so.

#include "pivot.h"

#include "clones.h"
#include "row_products.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace svdprune::cpu {

namespace {

template <class T>
constexpr double kLeft = 128.0 * std::numeric_limits<T>::epsilon();
template <class T>
constexpr double kTie = 32.0 * std::numeric_limits<T>::epsilon();

// w [n] -= earlier[0 .. count, :]^T earlier[0 .. count, p], earlier [count, n].
SVDPRUNE_CLONES void subtract_earlier(const double* earlier, int64_t count, int64_t n, int64_t p,
                                      double* w) {
  int64_t l = 0;
  for (; l + 4 <= count; l += 4) {  // sharing the loads and stores of w
    const double* r0 = earlier + l * n;
    const double* r1 = r0 + n;
    const double* r2 = r1 + n;
    const double* r3 = r2 + n;
    const double f0 = r0[p], f1 = r1[p], f2 = r2[p], f3 = r3[p];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      w[i] = w[i] - f0 * r0[i] - f1 * r1[i] - f2 * r2[i] - f3 * r3[i];
    }
  }
  for (; l < count; ++l) {
    const double* row = earlier + l * n;
    const double factor = row[p];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      w[i] -= factor * row[i];
    }
  }
}

// w *= scale; left -= w^2, and what is no more than least becomes 0. All [n]. Returns ||w||^2.
SVDPRUNE_CLONES double take_away(int64_t n, double scale, const double* least, double* w,
                                 double* left) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    w[i] *= scale;
    const double square = w[i] * w[i];
    const double rest = left[i] - square;
    left[i] = rest > least[i] ? rest : 0;
    sum += square;
  }
  return sum;
}

SVDPRUNE_CLONES double largest(const double* values, int64_t n) {
  double most = 0;
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) {
    most = values[i] > most ? values[i] : most;
  }
  return most;
}

// The columns of a Gram matrix that has been formed.
template <class T>
class FormedColumns {
 public:
  explicit FormedColumns(const Gram<T>& gram) : gram_(gram) {}

  int64_t tokens() const {
    return gram_.matrix.n;
  }
  std::vector<double> diagonal() const {
    std::vector<double> squares(tokens());
    for (int64_t i = 0; i < tokens(); ++i) {
      squares[i] = gram_.matrix.at(i, i);
    }
    return squares;
  }
  void column(int64_t token, const double* /*worth*/, double* products) const {
    for (int64_t i = 0; i < tokens(); ++i) {
      products[i] = gram_.matrix.at(std::max(i, token), std::min(i, token));
    }
  }

 private:
  const Gram<T>& gram_;
};

// The state of the note. Columns: FormedColumns<T> or RowProducts.
template <class T, class Columns>
class Residual {
 public:
  Residual(Columns& columns, int64_t most)
      : columns_(columns),
        n_(columns.tokens()),
        left_(columns.diagonal()),
        least_(n_),
        picked_(n_, false) {
    rows_.reserve(std::min(n_, most) * n_);
    for (int64_t i = 0; i < n_; ++i) {
      energy_ += left_[i];
      least_[i] = kLeft<T> * left_[i];
    }
  }

  // The token to pick; -1 where all are explained.
  int64_t next() const {
    const double most = largest(left_.data(), n_), equal = most * (1 - kTie<T>);
    const auto first = std::find_if(left_.begin(), left_.end(),
                                    [=](double own) { return own > 0 && own >= equal; });
    return first == left_.end() ? -1 : first - left_.begin();
  }

  // Picks token p; returns the share of the energy that it adds.
  double take(int64_t p) {
    const int64_t earlier = static_cast<int64_t>(rows_.size()) / n_;
    rows_.resize((earlier + 1) * n_);
    double* w = rows_.data() + earlier * n_;
    columns_.column(p, left_.data(), w);
    subtract_earlier(rows_.data(), earlier, n_, p, w);
    const double sum = take_away(n_, 1 / std::sqrt(left_[p]), least_.data(), w, left_.data());
    left_[p] = 0;
    picked_[p] = true;
    return sum / energy_;
  }

  bool picked(int64_t i) const {
    return picked_[i];
  }

 private:
  Columns& columns_;
  int64_t n_;
  double energy_ = 0;
  std::vector<double> left_;   // d; 0 where a token is explained or picked
  std::vector<double> least_;  // what counts as nothing
  std::vector<bool> picked_;
  std::vector<double> rows_;  // w of each pick, [picks, n]
};

template <class T, class Columns>
Picked pick_from(Residual<T, Columns> residual, int64_t n, int64_t most_rank, int64_t most,
                 double coverage, int64_t* order, T* shares) {
  std::fill_n(shares, n, T(0));
  Picked result{0, 0};
  double covered = 0;
  const auto wanted = [&] { return result.count < most && (coverage == 0 || covered < coverage); };
  for (int64_t p; result.count < most_rank && wanted() && (p = residual.next()) >= 0;) {
    const double share = residual.take(p);
    covered += share;
    shares[p] = static_cast<T>(share);
    order[result.count++] = p;
  }
  result.rank = result.count;
  for (int64_t i = 0; coverage == 0 && i < n && wanted(); ++i) {
    if (!residual.picked(i)) {
      order[result.count++] = i;
    }
  }
  std::fill(order + result.count, order + most, -1);
  return result;
}

// See Note [columns on demand], whose products are of float32.
bool few_columns(const Image& image, int64_t most) {
  constexpr int64_t kPriceOfAColumn = 8;
  return image.dtype != ScalarType::Double && kPriceOfAColumn * most < image.tokens;
}

// Stages 1 and 4. Throws NotFinite.
template <class T>
Picked pick_from_image(Crew& crew, const Image& image, bool center, int64_t most, double coverage,
                       int64_t* order, T* shares) {
  if (image.features > 0 && few_columns(image, most)) {
    Transform transform;
    if (center) {
      transform.mean = feature_means(image);
    }
    RowProducts products(crew, image, std::move(transform));
    const int64_t most_rank = std::min(image.tokens, image.features);
    return pick_from<T>(Residual<T, RowProducts>(products, most), image.tokens, most_rank, most,
                        coverage, order, shares);
  }
  if (image.tokens == 0 || image.features == 0) {
    Gram<T> zeros{Side::kTokens, SquareMatrix<T>(image.tokens), 0, 0, {}};
    std::fill_n(zeros.matrix.values.get(), zeros.matrix.n * zeros.matrix.ld, T(0));
    return pick(zeros, most, coverage, order, shares);
  }
  return pick(gram<T>(crew, image, Side::kTokens, center), most, coverage, order, shares);
}

}  // namespace

template <class T>
Picked pick(const Gram<T>& gram, int64_t most, double coverage, int64_t* order, T* shares) {
  FormedColumns<T> columns(gram);
  return pick_from<T>(Residual<T, FormedColumns<T>>(columns, most), gram.matrix.n, gram.most_rank,
                      most, coverage, order, shares);
}

Picked select_pivoted(Crew& crew, const Image& image, bool center, int64_t most, double coverage,
                      void* shares, int64_t* indices) {
  const Picked picked = image.dtype == ScalarType::Double
                            ? pick_from_image(crew, image, center, most, coverage, indices,
                                              static_cast<double*>(shares))
                            : pick_from_image(crew, image, center, most, coverage, indices,
                                              static_cast<float*>(shares));
  std::sort(indices, indices + picked.count);
  return picked;
}

template Picked pick(const Gram<float>&, int64_t, double, int64_t*, float*);
template Picked pick(const Gram<double>&, int64_t, double, int64_t*, double*);

}  // namespace svdprune::cpu
