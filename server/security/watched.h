// A value that is read from files, and read again when they change. While they can't be read, or are wrong, the value
// stays what it was, and the log says why.
#ifndef TAUSERVE_SERVER_SECURITY_WATCHED_H_
#define TAUSERVE_SERVER_SECURITY_WATCHED_H_

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/observability/logs.h"
#include "server/security/file_watcher.h"

namespace tauserve {

// Thread-safe.
template <typename T>
class Watched {
 public:
  using Read = std::function<absl::StatusOr<T>()>;

  // `name` is the value's in the log: NAME_reloaded, NAME_not_reloaded. What `read` says if there is no first value.
  static absl::StatusOr<std::shared_ptr<Watched>> Start(std::string name,
                                                        std::vector<std::string> files, Read read) {
    std::vector<FileStamp> stamps = StampsOf(files);  // before reading: a change after it is seen
    absl::StatusOr<T> value = read();
    if (!value.ok()) return value.status();
    return std::shared_ptr<Watched>(new Watched(
        std::move(name), std::move(files), std::move(stamps), std::move(read), *std::move(value)));
  }

  std::shared_ptr<const T> value() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return value_;
  }

 private:
  Watched(std::string name, std::vector<std::string> files, std::vector<FileStamp> stamps,
          Read read, T value)
      : name_(std::move(name)),
        read_(std::move(read)),
        value_(std::make_shared<const T>(std::move(value))),
        watcher_(std::move(files), std::move(stamps), [this] { Reload(); }) {}

  void Reload() {
    absl::StatusOr<T> value = read_();
    if (!value.ok()) {
      LogError(name_ + "_not_reloaded", {{"message", std::string(value.status().message())}});
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      value_ = std::make_shared<const T>(*std::move(value));
    }
    LogInfo(name_ + "_reloaded");
  }

  const std::string name_;
  const Read read_;
  mutable std::mutex mutex_;
  std::shared_ptr<const T> value_;  // guarded by mutex_
  FileWatcher watcher_;             // last: its thread uses the others
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SECURITY_WATCHED_H_
