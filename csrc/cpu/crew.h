// Note [crew]
// One image is worth several threads, but its work comes in many short pieces with a little serial
// work between them: a sweep of the reduction takes ten microseconds, and waking torch's pool about
// as long. So the pool is entered once: the leader runs the stages, and its helpers stand by for
// the next phase, spinning. A phase has parts, and whoever is free claims one. The parts depend on the
// shape alone, never on the number of threads, so neither does the result. Nobody waits for a helper
// that has claimed nothing: where the pool has no thread to spare, or runs its tasks one after the
// other, the leader does it all. Where others want the cores too, a helper may lose its own in the
// middle of a part; a leader kept waiting so once goes on alone for the rest of the image, as it
// would wait again in hundreds of phases.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace svdprune::cpu {

class Crew {
 public:
  static constexpr int kMostParts = 32;

  // With `helpers` threads that will call help().
  explicit Crew(int helpers = 0) : helpers_(helpers) {}

  bool is_alone() const {
    return helpers_ == 0;
  }

  // Calls work(part) for part 0 .. parts - 1, parts <= kMostParts, on any of the threads; returns
  // when all are done, throwing what one of them threw. For the leader.
  template <class F>
  void phase(int parts, const F& work) {
    if (helpers_ == 0 || deserted_ || parts < 2) {
      for (int part = 0; part < parts; ++part) {
        work(part);
      }
      return;
    }
    run_phase(parts, [](const void* f, int part) { (*static_cast<const F*>(f))(part); }, &work);
  }

  // The same for any number of independent items: work(item) for item 0 .. items - 1.
  template <class F>
  void for_each(int64_t items, const F& work) {
    const int parts = static_cast<int>(std::min<int64_t>(items, kMostParts));
    phase(parts, [&](int part) {
      for (int64_t item = part * items / parts; item < (part + 1) * items / parts; ++item) {
        work(item);
      }
    });
  }

  // Works on the leader's phases until dismiss(). helper: 1 .. helpers.
  void help(int helper);

  // From the leader: the first is called before its phases, the second after them.
  void assemble() {
    assembled_.store(true, std::memory_order_release);
  }
  void dismiss() {
    dismissed_.store(true, std::memory_order_release);
  }

 private:
  using Call = void (*)(const void* work, int part);

  void run_phase(int parts, Call call, const void* work);
  bool work_on_one_part(int thread);

  const int helpers_;
  std::atomic<bool> assembled_{false}, dismissed_{false};
  std::atomic<int> parts_{0};
  Call call_ = nullptr;
  const void* work_ = nullptr;
  bool deserted_ = false;
  uint64_t phases_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  alignas(64) std::atomic<uint64_t> unclaimed_{
      0};  // number of the phase << 32 | a bit for each part
  alignas(64) std::atomic<int> unfinished_{0};
};

// Threads that each of `images` may have of `threads`, the leader among them.
int crew_size(int64_t images, int threads);

}  // namespace svdprune::cpu
