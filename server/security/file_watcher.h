// Notices that files have changed, by looking at their times, sizes and inodes: that works for files written in place,
// renamed over, and reached through links that are switched, as Kubernetes does it.
#ifndef TAUSERVE_SERVER_SECURITY_FILE_WATCHER_H_
#define TAUSERVE_SERVER_SECURITY_FILE_WATCHER_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace tauserve {

// What one file's state looks like from outside; all zero where there is none.
using FileStamp = std::tuple<uint64_t, uint64_t, int64_t, int64_t, int64_t>;

std::vector<FileStamp> StampsOf(const std::vector<std::string>& files);

class FileWatcher {
 public:
  // `seen` are the stamps of what the caller has read. From then on `on_change` is called, on the watcher's own thread,
  // once files that differ from it have stayed the same for one look, so that certificate and key are replaced
  // together; looks are half a second apart.
  FileWatcher(std::vector<std::string> files, std::vector<FileStamp> seen,
              std::function<void()> on_change);
  ~FileWatcher();
  FileWatcher(const FileWatcher&) = delete;
  FileWatcher& operator=(const FileWatcher&) = delete;

 private:
  void Main();

  const std::vector<std::string> files_;
  const std::function<void()> on_change_;
  std::vector<FileStamp> seen_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_SECURITY_FILE_WATCHER_H_
