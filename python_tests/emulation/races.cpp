// See races.h. The compiler's calls, and what they find.

#include "executor.h"

#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <unordered_map>

extern "C" char __bss_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

namespace emulation::races {

namespace {

// What a thread has seen of the others' clocks, and its own.
struct Clock {
  Order::Seen seen;
  uint32_t own;
};

// A write that is about to happen.
struct Pending {
  const void* place = nullptr;
  size_t bytes;
  unsigned char before[16];
  const void* code;
};

std::vector<Clock> clocks;  // of the threads
Shadow of_statics;          // `__shared__` variables, and whatever else lies there
std::unordered_map<const void*, Cell> of_global;  // memory, in this launch
Pending pending;                                  // of the current thread
std::set<std::tuple<const char*, const void*, const void*>> found;

uint32_t thread() {
  return static_cast<uint32_t>(current - fibres.data());
}

void merge(Clocks& into, const Clocks& from) {
  for (size_t t = 0; t < from.size(); ++t) {
    into[t] = std::max(into[t], from[t]);
  }
}

// The cell of an address in shared memory, else null.
Cell* shared_cell_of(const void* place) {
  const auto* const address = static_cast<const unsigned char*>(place);
  const auto in_block = [address](Block& block) -> Cell* {
    const auto offset = static_cast<size_t>(address - block.shared());
    if (address < block.shared() || offset >= shared_bytes) {
      return nullptr;
    }
    block.shadow.cells.resize(std::max(block.shadow.cells.size(), shared_bytes));
    return &block.shadow.cells[offset];
  };
  if (Cell* const cell = in_block(*current->block)) {
    return cell;
  }
  const auto* const statics = reinterpret_cast<const unsigned char*>(__bss_start);
  const auto* const statics_end = reinterpret_cast<const unsigned char*>(_end);
  if (address >= statics && address < statics_end) {
    of_statics.cells.resize(statics_end - statics);
    return &of_statics.cells[address - statics];
  }
  constexpr size_t kMostCluster = 16;  // more blocks cannot reach each other's memory
  for (size_t b = 0; blocks.size() <= kMostCluster && b < blocks.size(); ++b) {
    if (Cell* const cell = in_block(blocks[b])) {
      return cell;
    }
  }
  return nullptr;
}

bool is_own(const void* place) {
  const char* const stack = current->stack.get();
  return place >= stack && place < stack + kStackBytes;
}

// Nothing orders what threads of two clusters do.
void check(const Cell& cell, const char* kind, const Access& before, const void* code) {
  if (cell.run != run ||
      (before.thread != thread() && (*clocks[thread()].seen)[before.thread] < before.clock)) {
    found.emplace(kind, before.code, code);
  }
}

// How: what is known when it has happened.
enum class How { kReads, kWrites, kChangesNothing };

void visit(Cell& cell, How how, const void* code) {
  const bool writes = how != How::kReads;
  if (how == How::kChangesNothing && cell.written) {
    return;
  }
  if (cell.written) {
    check(cell, writes ? "write, write" : "write, read", cell.write, code);
  }
  if (writes) {
    for (const Access& read : cell.reads) {
      check(cell, "read, write", read, code);
    }
  }
  if (writes || cell.run != run) {
    cell.reads.clear();
    cell.written = writes;
  }
  cell.run = run;
  const Access now{thread(), clocks[thread()].own, code};
  if (writes) {
    cell.write = now;
    return;
  }
  for (Access& read : cell.reads) {
    if (read.thread == now.thread) {
      read = now;
      return;
    }
  }
  cell.reads.push_back(now);
}

// In shared memory, which a cluster has alone, or in global memory, but for a thread's own stack.
void visit(const unsigned char* place, How how, const void* code) {
  if (Cell* const cell = shared_cell_of(place)) {
    if (cell->run != run) {
      *cell = {};
    }
    visit(*cell, how, code);
  } else if (!is_own(place)) {
    visit(of_global[place], how, code);
  }
}

void visit_all(const void* place, size_t bytes, How how, const void* code) {
  const size_t step = bytes < 4 ? 1 : 4;
  for (size_t at = 0; at < bytes; at += step) {
    visit(static_cast<const unsigned char*>(place) + at, how, code);
  }
}

// The write has happened meanwhile.
void end_pending() {
  if (pending.place) {
    const bool same = std::memcmp(pending.place, pending.before, pending.bytes) == 0;
    visit_all(pending.place, pending.bytes, same ? How::kChangesNothing : How::kWrites,
              pending.code);
  }
  pending.place = nullptr;
}

void before_read(const void* place, size_t bytes, const void* code) {
  if (watching && place != const_cast<const bool*>(&watching)) {
    const Pause pause;
    end_pending();
    visit_all(place, bytes, How::kReads, code);
  }
}

void before_write(const void* place, size_t bytes, const void* code) {
  if (!watching || place == const_cast<const bool*>(&watching)) {
    return;
  }
  const Pause pause;
  end_pending();
  if (bytes > sizeof pending.before) {
    visit_all(place, bytes, How::kWrites, code);
  } else if (!is_own(place)) {
    pending.place = place;
    pending.bytes = bytes;
    pending.code = code;
    std::memcpy(pending.before, place, bytes);
  }
}

}  // namespace

void Order::release(size_t generation) {
  end_pending();
  Clock& own = clocks[thread()];
  Round& round = rounds[generation % 2];
  if (!round.sum) {
    round.sum = std::make_shared<Clocks>(*own.seen);
  } else if (round.added != own.seen) {
    merge(*round.sum, *own.seen);
  }
  round.added = own.seen;
  (*round.sum)[thread()] = own.own++;
}

void Order::acquire(size_t generation) const {
  Order::Seen& seen = clocks[thread()].seen;
  Round& round = rounds[generation % 2];
  if (!round.sum) {
    return;
  }
  if (round.from != seen) {
    const auto merged = std::make_shared<Clocks>(*seen);
    merge(*merged, *round.sum);
    round.from = seen;
    round.merged = merged;
  }
  seen = round.merged;
}

void settle() {
  const Pause pause;
  end_pending();
}

void start_launch() {
  of_global.clear();
}

void start_cluster() {
  ++run;
  clocks.assign(fibres.size(), {std::make_shared<Clocks>(fibres.size(), 0), 1});
}

void write(const void* place, size_t bytes) {
  const Pause pause;
  end_pending();
  visit_all(place, bytes, How::kWrites, __builtin_return_address(0));
}

void read(const void* place, size_t bytes) {
  const Pause pause;
  end_pending();
  visit_all(place, bytes, How::kReads, __builtin_return_address(0));
}

}  // namespace emulation::races

extern "C" {

// "kind code code" a line: where in this library, in bytes from its start, the two accesses were. Forgets them.
const char* emulated_races(const char* library_start) {
  static std::string text;
  std::ostringstream lines;
  for (const auto& [kind, before, after] : emulation::races::found) {
    lines << kind << ':' << static_cast<const char*>(before) - library_start << ':'
          << static_cast<const char*>(after) - library_start << '\n';
  }
  emulation::races::found.clear();
  return (text = lines.str()).c_str();
}

#define SVDPRUNE_ACCESS(bytes)                                                 \
  void __tsan_read##bytes(void* place) {                                       \
    emulation::races::before_read(place, bytes, __builtin_return_address(0));  \
  }                                                                            \
  void __tsan_write##bytes(void* place) {                                      \
    emulation::races::before_write(place, bytes, __builtin_return_address(0)); \
  }
SVDPRUNE_ACCESS(1)
SVDPRUNE_ACCESS(2)
SVDPRUNE_ACCESS(4)
SVDPRUNE_ACCESS(8)
SVDPRUNE_ACCESS(16)
#undef SVDPRUNE_ACCESS

void __tsan_read_range(void* place, unsigned long bytes) {
  emulation::races::before_read(place, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* place, unsigned long bytes) {
  emulation::races::before_write(place, bytes, __builtin_return_address(0));
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
unsigned __tsan_atomic32_fetch_add(volatile unsigned* place, unsigned value, int) {
  return __atomic_fetch_add(place, value, __ATOMIC_SEQ_CST);  // of the standard library
}
unsigned char __tsan_atomic8_load(const volatile unsigned char* place, int) {
  return *place;  // of the guard of a static variable
}

}  // extern "C"
