#include "server/security/file_watcher.h"

#include <sys/stat.h>

#include <chrono>
#include <utility>

namespace tauserve {
namespace {

constexpr std::chrono::milliseconds kInterval(500);

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

std::vector<FileStamp> StampsOf(const std::vector<std::string>& files) {
  std::vector<FileStamp> stamps;
  for (const std::string& file : files) {
    struct stat s = {};
    if (stat(file.c_str(), &s) != 0) s = {};
    // The change time tells of new permissions as well.
    stamps.emplace_back(s.st_dev, s.st_ino, s.st_size, Nanoseconds(s.st_mtim),
                        Nanoseconds(s.st_ctim));
  }
  return stamps;
}

FileWatcher::FileWatcher(std::vector<std::string> files, std::vector<FileStamp> seen,
                         std::function<void()> on_change)
    : files_(std::move(files)),
      on_change_(std::move(on_change)),
      seen_(std::move(seen)),
      thread_([this] { Main(); }) {}

FileWatcher::~FileWatcher() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

void FileWatcher::Main() {
  std::vector<FileStamp> last = seen_;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopped_.wait_for(lock, kInterval, [this] { return stop_; })) {
    std::vector<FileStamp> now = StampsOf(files_);
    if (now == last && now != seen_) {
      seen_ = now;
      lock.unlock();
      on_change_();
      lock.lock();
    }
    last = std::move(now);
  }
}

}  // namespace tauserve
