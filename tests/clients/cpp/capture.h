// What a program under test writes, kept in memory.
#ifndef TAUSERVE_TESTS_CLIENTS_CPP_CAPTURE_H_
#define TAUSERVE_TESTS_CLIENTS_CPP_CAPTURE_H_

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tauserve::client {

// A file in memory.
class Capture {
 public:
  Capture() : file_(open_memstream(&data_, &size_)) {}
  ~Capture() {
    std::fclose(file_);
    std::free(data_);
  }
  std::FILE* file() { return file_; }
  std::string text() {
    std::fflush(file_);
    return std::string(data_, size_);
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  std::FILE* file_;
};

}  // namespace tauserve::client

#endif  // TAUSERVE_TESTS_CLIENTS_CPP_CAPTURE_H_
