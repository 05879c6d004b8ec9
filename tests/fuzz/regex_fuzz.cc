#include "tests/fuzz/check_constraint.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tauserve::CheckConstraint(tauserve::ConstraintSpec::Kind::kRegex, data, size);
  return 0;
}
