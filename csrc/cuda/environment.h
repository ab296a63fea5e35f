// Switches that a user sets in the environment of the process.
#pragma once

#include <cstdlib>
#include <cstring>

namespace svdprune::cuda {

// Whether it is "1".
inline bool switched_on(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr && std::strcmp(value, "1") == 0;
}

}  // namespace svdprune::cuda
