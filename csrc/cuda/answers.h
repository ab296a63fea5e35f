// What the driver said about a device.
#pragma once

#include <map>
#include <mutex>
#include <optional>

namespace svdprune::cuda {

// Numbers by question, each asked for once by all threads.
template <class Question>
class Answers {
 public:
  // ask(): the number, or none where the driver could not tell just then, as when it is out of memory; that is taken for
  // 0, and asked again next time.
  template <class Ask>
  int of(const Question& question, Ask&& ask) {
    const std::lock_guard lock(mutex_);
    if (const auto known = answers_.find(question); known != answers_.end()) {
      return known->second;
    }
    const std::optional<int> answer = ask();
    if (answer) {
      answers_.emplace(question, *answer);
    }
    return answer.value_or(0);
  }

 private:
  std::mutex mutex_;
  std::map<Question, int> answers_;
};

}  // namespace svdprune::cuda
