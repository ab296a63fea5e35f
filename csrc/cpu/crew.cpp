#include "crew.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>
#include <utility>

namespace svdprune::cpu {

namespace {

constexpr int kSpins = 4096;  // some 50 us; then the core is offered to others
constexpr int kPatience =
    20000;  // spins and offers after which a crew that never assembles is left
constexpr std::chrono::microseconds kGrace{
    100};                            // for a helper beyond its leader's own time in a phase
constexpr int64_t kMostThreads = 8;  // an image; the parts of its phases are hardly more

using Clock = std::chrono::steady_clock;

void relax(int idle) {
  if (idle >= kSpins) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

int crew_size(int64_t images, int threads) {
  return images == 0 ? 1 : static_cast<int>(std::clamp<int64_t>(threads / images, 1, kMostThreads));
}

// A claim and the phase it belongs to are one word: it cannot be mistaken for a later phase's, and as
// long as its part is unfinished the leader opens none.
bool Crew::work_on_one_part(int thread) {
  uint64_t word = unclaimed_.load(std::memory_order_acquire);
  while (const uint32_t parts = static_cast<uint32_t>(word)) {
    // Each thread begins at its own share, so that what it left in its cache comes back to it.
    const int share = thread * parts_.load(std::memory_order_relaxed) / (helpers_ + 1);
    const uint32_t from_share = parts & (~uint32_t{0} << share);
    const int part = std::countr_zero(from_share ? from_share : parts);
    if (unclaimed_.compare_exchange_weak(word, word & ~(uint64_t{1} << part),
                                         std::memory_order_acq_rel, std::memory_order_acquire)) {
      try {
        call_(work_, part);
      } catch (...) {
        const std::lock_guard lock(error_mutex_);
        error_ = std::current_exception();
      }
      unfinished_.fetch_sub(1, std::memory_order_release);
      return true;
    }
  }
  return false;
}

void Crew::run_phase(int parts, Call call, const void* work) {
  parts_.store(parts, std::memory_order_relaxed);
  call_ = call;
  work_ = work;
  unfinished_.store(parts, std::memory_order_relaxed);
  const uint64_t all = (uint64_t{1} << parts) - 1;
  unclaimed_.store(++phases_ << 32 | all, std::memory_order_release);
  const Clock::time_point begin = Clock::now();
  while (work_on_one_part(0)) {
  }
  const Clock::time_point own_end = Clock::now();
  for (int idle = 0; unfinished_.load(std::memory_order_acquire) > 0; ++idle) {
    relax(idle);
  }
  if (Clock::now() - own_end > own_end - begin + kGrace) {
    deserted_ = true;
    dismiss();
  }
  if (error_) {
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

void Crew::help(int helper) {
  for (int idle = 0; !dismissed_.load(std::memory_order_acquire);) {
    if (work_on_one_part(helper)) {
      idle = 0;
    } else if (idle > kPatience && !assembled_.load(std::memory_order_acquire)) {
      return;
    } else {
      relax(idle);
      idle = std::min(idle + 1, kPatience + 1);
    }
  }
}

}  // namespace svdprune::cpu
