#include "clients/cpp/bench/runner.h"

#include <grpcpp/support/client_callback.h>

#include <algorithm>
#include <map>
#include <utility>

#include "clients/cpp/failure.h"

namespace tauserve::bench {
namespace {

constexpr double kShowInterval = 0.2;
// Before a user whose request failed sends another one, if the server does not say when.
constexpr double kPauseAfterFailure = 0.1;

}  // namespace

// One call. Between Start and its end only gRPC's threads touch it, one at a time.
class Runner::Stream : public grpc::ClientReadReactor<v1::GenerateStreamResponse> {
 public:
  Stream(Runner* runner, RequestRecord record, v1::GenerateStreamRequest request)
      : runner_(runner), record_(std::move(record)), request_(std::move(request)) {}

  void Start(v1::InferenceService::Stub& stub) {
    client::AddAuthorization(runner_->options_.credentials, context_);
    if (const auto& timeout = runner_->options_.timeout) {
      context_.set_deadline(std::chrono::system_clock::now() + *timeout);
    }
    record_.attempts++;
    stub.async()->GenerateStream(&context_, &request_, this);
    StartRead(&response_);
    record_.sent = runner_->Now();
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.has_delta()) {
      const uint32_t count = response_.delta().num_tokens();
      record_.OnTokens(runner_->Now(), count);
      runner_->output_tokens_.fetch_add(count, std::memory_order_relaxed);
    } else {
      OnRareEvent();
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    record_.end = runner_->Now();
    record_.status = client::StatusName(status.error_code());
    record_.message = status.error_message();
    if (const auto delay = client::RetryDelayOf(status)) retry_delay_ = delay->count() / 1e3;
    unavailable_ = status.error_code() == grpc::StatusCode::UNAVAILABLE;
    exhausted_ = status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
    runner_->OnStreamDone(this);
  }

  grpc::ClientContext& context() { return context_; }
  RequestRecord& record() { return record_; }
  v1::GenerateStreamRequest& request() { return request_; }
  double retry_delay() const { return retry_delay_.value_or(kPauseAfterFailure); }
  bool unavailable() const { return unavailable_; }
  bool exhausted() const { return exhausted_; }

 private:
  void OnRareEvent() {
    if (!response_.request_id().empty()) record_.request_id = response_.request_id();
    if (response_.has_started()) record_.prompt_tokens = response_.started().prompt_tokens();
    if (response_.has_candidate_finished()) {
      record_.finish_reason = response_.candidate_finished().finish_reason();
    }
    if (response_.has_completed()) record_.completed = response_.completed();
  }

  Runner* runner_;
  RequestRecord record_;
  v1::GenerateStreamRequest request_;
  v1::GenerateStreamResponse response_;
  grpc::ClientContext context_;
  std::optional<double> retry_delay_;
  bool unavailable_ = false;
  bool exhausted_ = false;
};

// The thread that sends, and what only it knows.
class Runner::Session {
 public:
  Session(Runner* runner, Pacer pacer, const Workload& workload, uint64_t first_index,
          const Show& show)
      : runner_(runner),
        pacer_(std::move(pacer)),
        workload_(workload),
        first_index_(first_index),
        show_(show) {}

  RunResult Run() {
    const CpuUsage before = CpuUsage::Now();
    while (Advance()) {
    }
    ShowProgress();
    result_.cpu = CpuUsage::Now().Since(before);
    return std::move(result_);
  }

 private:
  // Does one thing. False: the run is over.
  bool Advance() {
    if (TakeFinished()) return true;
    const double now = runner_->Now();
    if (show_ && now >= next_show_) ShowProgress();
    if (!retries_.empty() && retries_.begin()->first <= now) {
      std::unique_ptr<Stream> stream = std::move(retries_.begin()->second);
      retries_.erase(retries_.begin());
      stream->record().ForgetAttempt();
      Send(std::make_unique<Stream>(runner_, std::move(stream->record()),
                                    std::move(stream->request())));
      return true;
    }
    const Pacer::Step step = pacer_.Next(now);
    if (step.kind == Pacer::Step::Kind::kDone) return false;
    if (step.kind == Pacer::Step::Kind::kSend) {
      Prepare(step.index);
      RequestRecord record;
      record.index = step.index;
      record.intended = step.intended;
      record.ready = step.ready;
      record.asked_tokens = prepared_->input().stopping().max_new_tokens();
      Send(std::make_unique<Stream>(runner_, std::move(record), *std::move(prepared_)));
      prepared_.reset();
      return true;
    }
    // Made while there is time, not when it is due.
    if (!prepared_ && step.until < std::numeric_limits<double>::infinity()) {
      Prepare(pacer_.sent());
      return true;
    }
    Wait(step.until);
    return true;
  }

  void Prepare(uint64_t index) {
    if (!prepared_) prepared_ = workload_.Request(first_index_ + index);
  }

  void Send(std::unique_ptr<Stream> stream) {
    auto& stubs = runner_->stubs_;
    Stream* raw = stream.release();  // until OnStreamDone
    {
      std::lock_guard<std::mutex> lock(runner_->mutex_);
      runner_->streams_.insert(raw);
      if (runner_->interrupted_) raw->context().TryCancel();
    }
    raw->Start(*stubs[next_stub_++ % stubs.size()]);
  }

  // Whether there was something.
  bool TakeFinished() {
    std::vector<std::unique_ptr<Stream>> finished;
    bool interrupted = false;
    {
      std::lock_guard<std::mutex> lock(runner_->mutex_);
      finished.swap(runner_->finished_);
      interrupted = runner_->interrupted_;
    }
    if (interrupted) {
      pacer_.Stop();
      for (auto& [time, stream] : retries_) finished.push_back(std::move(stream));
      retries_.clear();
    }
    for (std::unique_ptr<Stream>& stream : finished) Settle(std::move(stream), interrupted);
    return !finished.empty();
  }

  void Settle(std::unique_ptr<Stream> stream, bool interrupted) {
    RequestRecord& record = stream->record();
    unavailable_in_a_row_ = stream->unavailable() ? unavailable_in_a_row_ + 1 : 0;
    const uint32_t give_up_after = runner_->options_.give_up_after;
    if (give_up_after > 0 && unavailable_in_a_row_ >= give_up_after && !result_.lost) {
      result_.lost = true;
      pacer_.Stop();
    }
    if (stream->exhausted() && record.attempts <= runner_->options_.retries && !interrupted) {
      const double time = record.end + stream->retry_delay();
      retries_.emplace(time, std::move(stream));
      return;
    }
    record.interrupted = interrupted && !record.ok();
    progress_.failed += !record.ok() && !record.interrupted;
    progress_.done++;
    pacer_.OnFinished(record.ok() ? record.end : record.end + stream->retry_delay());
    result_.seconds = std::max(result_.seconds, record.end);
    result_.records.push_back(std::move(record));
  }

  void ShowProgress() {
    if (!show_) return;
    progress_.seconds = runner_->Now();
    progress_.in_flight = pacer_.in_flight();
    progress_.output_tokens = runner_->output_tokens_.load(std::memory_order_relaxed);
    show_(progress_);
    next_show_ = progress_.seconds + kShowInterval;
  }

  void Wait(double until) {
    if (!retries_.empty()) until = std::min(until, retries_.begin()->first);
    if (show_) until = std::min(until, next_show_);
    std::unique_lock<std::mutex> lock(runner_->mutex_);
    const auto changed = [this] {
      return !runner_->finished_.empty() || runner_->interrupted_ != interrupted_seen_;
    };
    if (until == std::numeric_limits<double>::infinity()) {
      runner_->changed_.wait(lock, changed);
    } else {
      runner_->changed_.wait_until(lock,
                                   runner_->start_ + std::chrono::duration_cast<Clock::duration>(
                                                         std::chrono::duration<double>(until)),
                                   changed);
    }
    interrupted_seen_ = runner_->interrupted_;
  }

  Runner* runner_;
  Pacer pacer_;
  const Workload& workload_;
  const uint64_t first_index_;
  const Show& show_;
  RunResult result_;
  RunProgress progress_;
  double next_show_ = 0;
  std::optional<v1::GenerateStreamRequest> prepared_;
  std::multimap<double, std::unique_ptr<Stream>> retries_;  // by the time to send them again
  uint64_t unavailable_in_a_row_ = 0;
  size_t next_stub_ = 0;
  bool interrupted_seen_ = false;
};

Runner::Runner(Options options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  // A connection for each channel; they would share one.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  for (uint32_t i = 0; i < options_.connections; i++) {
    channels_.push_back(client::MakeChannel(options_.address, options_.credentials, arguments));
    stubs_.push_back(v1::InferenceService::NewStub(channels_.back()));
  }
}

Runner::~Runner() = default;

grpc::Status Runner::Connect(std::chrono::milliseconds patience) {
  const auto end = std::chrono::system_clock::now() + patience;
  for (const auto& channel : channels_) {
    if (!channel->WaitForConnected(end)) {
      return grpc::Status(grpc::StatusCode::UNAVAILABLE, "no connection to " + options_.address);
    }
  }
  return grpc::Status::OK;
}

RunResult Runner::Run(Pacer pacer, const Workload& workload, uint64_t first_index,
                      const Show& show) {
  output_tokens_ = 0;
  start_ = Clock::now();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    running_ = true;
  }
  RunResult result = Session(this, std::move(pacer), workload, first_index, show).Run();
  std::lock_guard<std::mutex> lock(mutex_);
  running_ = false;
  return result;
}

bool Runner::Interrupt() {
  std::lock_guard<std::mutex> lock(mutex_);
  interrupted_ = true;
  for (Stream* stream : streams_) stream->context().TryCancel();
  changed_.notify_all();
  return running_;
}

bool Runner::interrupted() {
  std::lock_guard<std::mutex> lock(mutex_);
  return interrupted_;
}

double Runner::Now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

void Runner::OnStreamDone(Stream* stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  streams_.erase(stream);
  finished_.emplace_back(stream);
  changed_.notify_all();
}

}  // namespace tauserve::bench
