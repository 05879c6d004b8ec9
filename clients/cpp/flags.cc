#include "clients/cpp/flags.h"

#include <unistd.h>

#include "absl/flags/flag.h"

ABSL_FLAG(std::string, server, "",
          "HOST:PORT of inference; else $TAUSERVE_SERVER, 127.0.0.1:50051");
ABSL_FLAG(std::string, control, "",
          "HOST:PORT of the control service; else $TAUSERVE_CONTROL, 127.0.0.1:50052");
ABSL_FLAG(absl::Duration, timeout, absl::InfiniteDuration(), "deadline of the call, such as 30s");
ABSL_FLAG(bool, json, false, "print one JSON object and nothing else on standard output");

ABSL_FLAG(std::string, tls_ca, "",
          "speak TLS, with a server of these authorities; PEM file; else $TAUSERVE_TLS_CA");
ABSL_FLAG(std::string, tls_cert, "",
          "the client's own certificate; PEM file; else $TAUSERVE_TLS_CERT");
ABSL_FLAG(std::string, tls_key, "", "its key; PEM file; else $TAUSERVE_TLS_KEY");
ABSL_FLAG(std::string, tls_server_name, "",
          "name in the server's certificate; else $TAUSERVE_TLS_SERVER_NAME, the address's host");
ABSL_FLAG(std::string, token_file, "", "file of the token to send; else $TAUSERVE_TOKEN itself");

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
ABSL_FLAG(std::string, model, "", "name of the model; else the served one");
ABSL_FLAG(absl::optional<uint32_t>, truncate_prompt_tokens, absl::nullopt,
          "keep only so many tokens of the prompt");
ABSL_FLAG(std::string, truncation_side, "left",
          "where tokens of a long prompt are removed: left, right");
ABSL_FLAG(absl::optional<float>, temperature, absl::nullopt, "0: greedy");
ABSL_FLAG(absl::optional<uint32_t>, top_k, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, top_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, min_p, absl::nullopt, "in [0, 1]");
ABSL_FLAG(absl::optional<float>, typical_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, repetition_penalty, absl::nullopt, "1: off");
ABSL_FLAG(absl::optional<float>, presence_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, frequency_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<uint64_t>, seed, absl::nullopt, "same seed, same tokens");
ABSL_FLAG(absl::optional<uint32_t>, num_candidates, absl::nullopt,
          "so many continuations, shown one after the other at the end");
ABSL_FLAG(std::string, regex, "", "what the whole output matches");
ABSL_FLAG(std::string, json_schema, "",
          "the output is JSON of this schema: a file, or itself if it begins with {");
ABSL_FLAG(bool, json_object, false, "the output is a JSON object");
ABSL_FLAG(absl::optional<uint32_t>, max_new_tokens, absl::nullopt, "most tokens to generate");
ABSL_FLAG(absl::optional<uint32_t>, min_new_tokens, absl::nullopt, "fewest tokens to generate");
ABSL_FLAG(std::vector<std::string>, stop_token_ids, {}, "end at these tokens, comma between");
ABSL_FLAG(bool, include_stop_in_output, false, "show the stop text or token as well");
ABSL_FLAG(bool, ignore_eos, false, "go on after the model's end token");
ABSL_FLAG(absl::optional<absl::Duration>, time_limit, absl::nullopt,
          "end, with what there is, after this time");
ABSL_FLAG(absl::optional<uint32_t>, top_logprobs, absl::nullopt,
          "with --json: log-probabilities and so many alternatives");
ABSL_FLAG(absl::optional<uint32_t>, top_prompt_logprobs, absl::nullopt,
          "the same of the prompt's tokens");
ABSL_FLAG(bool, return_token_ids, false, "with --json: token ids");
ABSL_FLAG(bool, bypass_prefix_cache, false, "neither use nor leave cached pages");
ABSL_FLAG(std::string, salt, "", "share cached pages only with requests of the same salt");
ABSL_FLAG(int32_t, priority, 0, "lower is served earlier; a unit counts as 10 s of waiting");

ABSL_FLAG(bool, add_special_tokens, true, "add the tokenizer's special tokens, such as <bos>");
ABSL_FLAG(bool, skip_special_tokens, true, "leave special tokens out of the text");
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
  flags.insert(flags.end(), {"stream",
                             "progress",
                             "stats",
                             "request_id",
                             "model",
                             "temperature",
                             "top_k",
                             "top_p",
                             "min_p",
                             "typical_p",
                             "repetition_penalty",
                             "presence_penalty",
                             "frequency_penalty",
                             "seed",
                             "regex",
                             "json_schema",
                             "json_object",
                             "max_new_tokens",
                             "min_new_tokens",
                             kStopFlag,
                             kBadWordFlag,
                             "stop_token_ids",
                             "include_stop_in_output",
                             "ignore_eos",
                             "time_limit",
                             "top_logprobs",
                             "top_prompt_logprobs",
                             "return_token_ids",
                             "skip_special_tokens",
                             "bypass_prefix_cache",
                             "salt",
                             "priority"});
  return flags;
}

}  // namespace

const std::vector<CommandSpec>& Commands() {
  static const auto* const commands = new std::vector<CommandSpec>{
      {"generate", "[PROMPT]",
       "generate from the argument, --file, --prompts, --token_ids or standard input",
       WithGenerationFlags({"file", "prompts", "prompt_id", "token_ids", "truncate_prompt_tokens",
                            "truncation_side", "num_candidates"})},
      {"chat", "[QUESTION]",
       "ask as a chat: the argument, --file or standard input; on a terminal, question by question",
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
  };
  return *commands;
}

const CommandSpec* FindCommand(absl::string_view name) {
  for (const CommandSpec& command : Commands()) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

const std::vector<const char*>& CommonFlags() {
  static const auto* const flags =
      new std::vector<const char*>{"server",   "control", "timeout",         "json",      "tls_ca",
                                   "tls_cert", "tls_key", "tls_server_name", "token_file"};
  return *flags;
}

}  // namespace tauserve::client
