#include "clients/cpp/flags.h"

#include <unistd.h>

#include <utility>

#include "absl/flags/flag.h"

ABSL_FLAG(bool, json, false, "print one JSON object and nothing else on standard output");
ABSL_FLAG(std::string, file, "", "read the text from a file; -: standard input");
ABSL_FLAG(std::string, system, "", "the chat's system message");
ABSL_FLAG(std::string, prompts, "", "take the prompt and its known answer from a JSON-lines file");
ABSL_FLAG(std::string, prompt_id, "",
          "which prompt of --prompts: its id, or its number from 0; else the first");
ABSL_FLAG(std::vector<std::string>, token_ids, {}, "prompt as token ids, separated by commas");
ABSL_FLAG(bool, stream, isatty(STDOUT_FILENO) != 0,
          "print text as it comes; default on a terminal");
ABSL_FLAG(bool, progress, isatty(STDERR_FILENO) != 0,
          "show how far the prompt is read; default on a terminal");
ABSL_FLAG(bool, stats, true, "statistics on standard error at the end");
ABSL_FLAG(std::string, request_id, "", "name of the request; else the server makes one");
ABSL_FLAG(absl::optional<uint32_t>, truncate_prompt_tokens, absl::nullopt,
          "keep only so many tokens of the prompt");
ABSL_FLAG(std::string, truncation_side, "left",
          "where tokens of a long prompt are removed: left, right");
ABSL_FLAG(bool, add_special_tokens, true, "add the tokenizer's special tokens, such as <bos>");
ABSL_FLAG(std::string, service, "tauserve.inference.v1.InferenceService",
          "service to ask about; empty: the process");
ABSL_FLAG(absl::Duration, wait, absl::ZeroDuration(), "wait so long for SERVING, such as 30s");
ABSL_FLAG(bool, all, false, "all requests in flight");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30),
          "how long requests in flight may go on; what is left then is aborted");
ABSL_FLAG(std::vector<std::string>, scopes, {"inference"},
          "what the token is for: inference, control, or both with a comma between");
ABSL_FLAG(std::string, out, "", "write the token to this new file instead of showing it");
ABSL_FLAG(std::string, metrics, "",
          "HOST:PORT of the server's metrics; else $TAUSERVE_METRICS, 127.0.0.1:9464");
ABSL_FLAG(absl::Duration, interval, absl::Seconds(1), "how often to look, from 100ms to 1h");
ABSL_FLAG(bool, once, false, "print the figures of one interval as text, and end");

namespace tauserve::client {

namespace {

// And what every generation takes.
std::vector<const char*> WithGenerationFlags(std::vector<const char*> flags) {
  flags.insert(flags.end(), {"stream", "progress", "stats", "request_id", "model"});
  return WithSamplingFlags(
      std::move(flags),
      {"seed", "regex", "json_schema", "json_object", "max_new_tokens", "min_new_tokens", kStopFlag,
       kBadWordFlag, "stop_token_ids", "include_stop_in_output", "ignore_eos", "time_limit",
       "top_logprobs", "top_prompt_logprobs", "return_token_ids", "skip_special_tokens",
       "bypass_prefix_cache", "salt", "priority"});
}

}  // namespace

const Program& CliProgram() {
  static const auto* const program = new Program{
      "tauserve-cli",
      "asks a Tauserve server.",
      {
          {"generate", "[PROMPT]",
           "generate from the argument, --file, --prompts, --token_ids or standard input",
           WithGenerationFlags({"file", "prompts", "prompt_id", "token_ids",
                                "truncate_prompt_tokens", "truncation_side", "num_candidates"})},
          {"chat", "[QUESTION]",
           "ask as a chat: the argument, --file or standard input; on a terminal, question by "
           "question",
           WithGenerationFlags({"system", "file"})},
          {"tokenize",
           "[TEXT]",
           "ids and spellings of the tokens of the argument, --file or standard input",
           {"file", "model", "add_special_tokens"}},
          {"detokenize", "ID...", "the text of token ids", {"model", "skip_special_tokens"}},
          {"info", "", "the model; with --control, the server as well", {"model"}},
          {"load", "", "requests, queue and cache (control service)", {}},
          {"health", "", "exit code 0 if SERVING, 1 if not", {"service", "wait"}},
          {"abort", "ID... | --all", "end requests by name (control service)", {"all"}},
          {"drain",
           "",
           "refuse new requests, wait for the others (control service)",
           {"drain_timeout"}},
          {"token",
           "",
           "make a token, and its line for the server's --auth_tokens_file",
           {"scopes", "out"}},
          {"top",
           "",
           "what the server does, live: load, speed, latencies, cache, sparsity, failures",
           {"metrics", "interval", "once"}},
      },
      WithConnectionFlags({"control", "json"}),
      "0 done; 1 the server refused, is not SERVING, or an expected answer was not given;\n2 wrong "
      "usage; 3 no connection, or the server takes no requests; 130 interrupted."};
  return *program;
}

}  // namespace tauserve::client
