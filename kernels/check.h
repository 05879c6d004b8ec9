// TAUSERVE_CHECK(condition, "message"): ends the process when a condition that only a bug can break is broken. In every
// build type; what users or the environment can cause is an absl::Status instead.
#ifndef TAUSERVE_KERNELS_CHECK_H_
#define TAUSERVE_KERNELS_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define TAUSERVE_CHECK(condition, message)                                                  \
  do {                                                                                      \
    if (__builtin_expect(!(condition), 0)) {                                                \
      std::fprintf(stderr, "%s:%d: check failed: %s: %s\n", __FILE__, __LINE__, #condition, \
                   message);                                                                \
      std::abort();                                                                         \
    }                                                                                       \
  } while (false)

#endif  // TAUSERVE_KERNELS_CHECK_H_
