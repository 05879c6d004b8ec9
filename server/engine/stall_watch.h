// Tells an engine that is stuck from one that is busy. A busy engine moves: its loop turns, and within a step, however
// long, the device gets from one piece of work to the next. Only when nothing of that has moved for a while is it stuck;
// as soon as anything moves, it is not.
#ifndef TAUSERVE_SERVER_ENGINE_STALL_WATCH_H_
#define TAUSERVE_SERVER_ENGINE_STALL_WATCH_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "server/engine/engine.h"

namespace tauserve {

// The judgement, without thread or clock.
class StallDetector {
 public:
  // A device that does not tell how a step gets on may take so many times its longest step so far: chunks of a prompt take
  // longer the further they are, each little more than the one before.
  static constexpr int kQuietSteps = 4;

  explicit StallDetector(absl::Duration limit) : limit_(limit) {}

  // Whether the engine is stuck, `elapsed` after the last look.
  bool Look(const EnginePulse& pulse, absl::Duration elapsed);

 private:
  const absl::Duration limit_;
  uint64_t beats_ = 0;
  absl::Duration quiet_;  // since when beats_ are the same
};

// Looks at an engine from a thread of its own.
class StallWatch {
 public:
  // `on_change(stuck)` comes from the watching thread, first when the engine is stuck for the first time. The engine is
  // found stuck between `limit` and 17/16 of it after it last moved.
  StallWatch(const Engine* engine, absl::Duration limit, std::function<void(bool)> on_change);
  ~StallWatch();
  StallWatch(const StallWatch&) = delete;
  StallWatch& operator=(const StallWatch&) = delete;

 private:
  void Main();

  const Engine* const engine_;
  const absl::Duration interval_;
  const std::function<void(bool)> on_change_;
  StallDetector detector_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ENGINE_STALL_WATCH_H_
