// Turns what a client asked for into a request that the engine can run, or says why not: names, ranges, tokenization,
// the model's defaults, the context's limit. Runs on the caller's thread, never on the engine's. Thread-safe.
#ifndef TAUSERVE_SERVER_ADMISSION_ADMISSION_H_
#define TAUSERVE_SERVER_ADMISSION_ADMISSION_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/admission/generation_spec.h"
#include "server/constraint/constraint_cache.h"
#include "server/model/chat/chat_template.h"
#include "server/model/model.h"
#include "server/model/tokenizer/tokenizer.h"
#include "server/request/request.h"

namespace tauserve {

class Admission {
 public:
  // What max_new_tokens is at most where a request does not say.
  static constexpr int32_t kDefaultMaxNewTokens = 1024;

  // `context_tokens`: the most that prompt and output may have together. Pointers must outlive this object.
  Admission(const ModelInfo* model, const Tokenizer* tokenizer, ChatTemplate chat_template,
            SamplingParams default_sampling, int32_t context_tokens, ConstraintCache* constraints)
      : model_(model),
        tokenizer_(tokenizer),
        chat_template_(std::move(chat_template)),
        default_sampling_(std::move(default_sampling)),
        context_tokens_(context_tokens),
        constraints_(constraints) {}

  // The request still needs its sink. NotFound for another model's name, InvalidArgument for everything else that is
  // wrong, with the value and the limit.
  absl::StatusOr<std::shared_ptr<Request>> Admit(const GenerationSpec& spec, absl::Time arrival,
                                                 absl::Time deadline) const;

  // NotFound unless `name` is empty or the served model's.
  absl::Status CheckModel(const std::string& name) const;

  const ModelInfo& model() const { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const ChatTemplate& chat_template() const { return chat_template_; }
  const SamplingParams& default_sampling() const { return default_sampling_; }
  int32_t context_tokens() const { return context_tokens_; }

 private:
  absl::StatusOr<std::vector<int32_t>> PromptTokens(const GenerationSpec& spec) const;
  absl::Status FitContext(const GenerationSpec& spec, Request& request) const;
  absl::Status AddConstraint(const GenerationSpec& spec, Request& request) const;
  // The sampler leaves out bad words of one token and, before min_new_tokens, the tokens that end the output: some other
  // has to be allowed.
  absl::Status CheckAllowedTokens(const Request& request) const;

  const ModelInfo* model_;
  const Tokenizer* tokenizer_;
  ChatTemplate chat_template_;
  SamplingParams default_sampling_;
  int32_t context_tokens_;
  ConstraintCache* constraints_;
};

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_ADMISSION_ADMISSION_H_
