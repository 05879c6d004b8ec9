#include "clients/cpp/top/scraper.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/time/clock.h"

namespace tauserve::client::top {

struct Scraper::Shared {
  explicit Shared(MetricsEndpoint scraped) : endpoint(std::move(scraped)) {}
  ~Shared() { close(event); }

  void Run(absl::Duration interval);

  MetricsEndpoint endpoint;  // the thread's
  const int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::mutex mutex;
  std::condition_variable wake;
  bool stop = false;            // guarded by mutex
  std::vector<Scrape> scrapes;  // guarded by mutex
};

void Scraper::Shared::Run(absl::Duration interval) {
  using Clock = std::chrono::steady_clock;
  const Clock::duration every = absl::ToChronoNanoseconds(interval);
  Clock::time_point next = Clock::now() + every;
  std::unique_lock<std::mutex> lock(mutex);
  while (!wake.wait_until(lock, next, [this] { return stop; })) {
    lock.unlock();
    absl::StatusOr<Samples> samples = endpoint.Scrape();
    const absl::Time time = absl::Now();
    while (next <= Clock::now()) next += every;
    lock.lock();
    scrapes.push_back({time, std::move(samples)});
    eventfd_write(event, 1);
  }
}

Scraper::Scraper(MetricsEndpoint endpoint, absl::Duration interval)
    : shared_(std::make_shared<Shared>(std::move(endpoint))) {
  std::thread([shared = shared_, interval] { shared->Run(interval); }).detach();
}

Scraper::~Scraper() {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  shared_->stop = true;
  shared_->wake.notify_one();
}

int Scraper::descriptor() const { return shared_->event; }

std::vector<Scrape> Scraper::Take() {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  eventfd_t count = 0;
  eventfd_read(shared_->event, &count);
  return std::exchange(shared_->scrapes, {});
}

}  // namespace tauserve::client::top
