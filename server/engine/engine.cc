#include "server/engine/engine.h"

#include <utility>

#include "server/engine/engine_loop.h"

namespace tauserve {

Engine::Engine(const EngineOptions& options, LanguageModel* model, const Tokenizer* tokenizer,
               Metrics* metrics)
    : loop_(std::make_unique<Loop>(options, model, tokenizer, metrics)) {}

Engine::~Engine() { Shutdown(); }

absl::Status Engine::Submit(std::shared_ptr<const Request> request) {
  return loop_->Submit(std::move(request));
}
void Engine::Cancel(const std::string& request_id) { loop_->Cancel(request_id); }
std::vector<std::string> Engine::Abort(absl::Span<const std::string> request_ids) {
  return loop_->Abort(request_ids);
}
int32_t Engine::Drain(absl::Duration timeout) { return loop_->Drain(timeout); }
int64_t Engine::ClearPrefixCache() { return loop_->ClearPrefixCache(); }
EngineLoad Engine::load() const { return loop_->load(); }
EnginePulse Engine::pulse() const { return loop_->pulse(); }
std::array<absl::Duration, kEnginePhases> Engine::phase_time() const { return loop_->phase_time(); }
absl::Duration Engine::RetryDelay() const { return loop_->RetryDelay(); }
void Engine::Shutdown() { loop_->Shutdown(); }

}  // namespace tauserve
