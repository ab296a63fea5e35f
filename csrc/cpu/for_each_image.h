// A batch's images on torch's pool.
#pragma once

#include "crew.h"
#include "pack.h"

#include "../prune_args.h"

#include <deque>
#include <exception>

namespace svdprune::cpu {

// Calls lead(b, crew) for every image, images side by side, each with the threads that are left over for it. With
// `divide` false an image gets one thread of ours, and a single image leaves the others to BLAS.
template <class F>
void with_crews(int64_t images, bool divide, const F& lead) {
  const int size =
      divide ? crew_size(images, static_cast<int>(torch::stable::get_num_threads())) : 1;
  if (size == 1) {
    const auto alone = [&](int64_t begin, int64_t end) {
      Crew crew;
      for (int64_t b = begin; b < end; ++b) {
        lead(b, crew);
      }
    };
    images == 1 ? alone(0, 1) : torch::stable::parallel_for(0, images, 1, alone);
    return;
  }
  std::deque<Crew> crews;
  for (int64_t b = 0; b < images; ++b) {
    crews.emplace_back(size - 1);
  }
  torch::stable::parallel_for(0, images * size, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) {
      Crew& crew = crews[slot / size];
      if (slot % size > 0) {
        crew.help(static_cast<int>(slot % size));
        continue;
      }
      crew.assemble();
      lead(slot / size, crew);
      crew.dismiss();
    }
  });
}

// Runs work(b, crew) for every image, in parallel. An exception may not cross torch's thread pool: the first image's is
// thrown again here when all are done; of one that x is to blame for, the error names the image.
template <class F>
void for_each_image(const char* op, int64_t images, bool batched, bool divide, const F& work) {
  std::vector<std::exception_ptr> errors(images);
  with_crews(images, divide, [&](int64_t b, Crew& crew) {
    try {
      work(b, crew);
    } catch (...) {
      errors[b] = std::current_exception();
    }
  });
  for (int64_t b = 0; b < images; ++b) {
    if (!errors[b]) {
      continue;
    }
    try {
      std::rethrow_exception(errors[b]);
    } catch (const NotFinite&) {
      const std::string name = batched ? "image " + std::to_string(b) + " of x" : "x";
      refuse(op, "x must be finite, got NaN or Inf in ", name);
    }
  }
}

}  // namespace svdprune::cpu
