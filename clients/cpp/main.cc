// tauserve-cli: command line -> one call -> exit code.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "clients/cpp/commands.h"

ABSL_FLAG(std::string, server, "", "inference address; else $TAUSERVE_SERVER, 127.0.0.1:50051");
ABSL_FLAG(std::string, control, "", "control address; else $TAUSERVE_CONTROL, 127.0.0.1:50052");
ABSL_FLAG(absl::Duration, timeout, absl::InfiniteDuration(), "deadline of the call");
ABSL_FLAG(bool, json, false, "print JSON and nothing else");
ABSL_FLAG(bool, stream, isatty(STDOUT_FILENO) != 0, "generate: show text as it comes");
ABSL_FLAG(bool, progress, isatty(STDERR_FILENO) != 0, "generate: progress during prefill");
ABSL_FLAG(bool, stats, true, "generate: statistics on stderr");
ABSL_FLAG(std::string, file, "",
          "generate, tokenize: read the text from a file; -: standard input");
ABSL_FLAG(std::string, prompts, "", "generate: take a prompt from a JSON-lines file");
ABSL_FLAG(std::string, prompt_id, "", "generate: which one of --prompts; else the first");
ABSL_FLAG(std::vector<std::string>, token_ids, {}, "generate: prompt as token ids");
ABSL_FLAG(std::string, model, "", "model name; else the served one");
ABSL_FLAG(std::string, request_id, "", "name of the request; else made by the server");
ABSL_FLAG(absl::optional<float>, temperature, absl::nullopt, "0: greedy");
ABSL_FLAG(absl::optional<uint32_t>, top_k, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, top_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, min_p, absl::nullopt, "in [0, 1]");
ABSL_FLAG(absl::optional<float>, typical_p, absl::nullopt, "in (0, 1]");
ABSL_FLAG(absl::optional<float>, repetition_penalty, absl::nullopt, "1: off");
ABSL_FLAG(absl::optional<float>, presence_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<float>, frequency_penalty, absl::nullopt, "0: off");
ABSL_FLAG(absl::optional<uint64_t>, seed, absl::nullopt, "same seed, same tokens");
ABSL_FLAG(absl::optional<uint32_t>, max_new_tokens, absl::nullopt, "most tokens to generate");
ABSL_FLAG(absl::optional<uint32_t>, min_new_tokens, absl::nullopt, "fewest tokens to generate");
ABSL_FLAG(std::vector<std::string>, stop, {}, "stop strings, separated by commas");
ABSL_FLAG(std::vector<std::string>, stop_token_ids, {}, "stop tokens, separated by commas");
ABSL_FLAG(bool, include_stop_in_output, false, "show the stop string or token as well");
ABSL_FLAG(bool, ignore_eos, false, "go on after the model's end token");
ABSL_FLAG(absl::Duration, time_limit, absl::ZeroDuration(),
          "generate: end politely after this time");
ABSL_FLAG(absl::optional<uint32_t>, top_logprobs, absl::nullopt,
          "log-probabilities, with so many alternatives");
ABSL_FLAG(bool, return_token_ids, false, "generate: token ids as well (with --json)");
ABSL_FLAG(absl::optional<uint32_t>, truncate_prompt_tokens, absl::nullopt, "keep the last so many");
ABSL_FLAG(bool, special_tokens, true, "tokenize: add the tokenizer's special tokens");
ABSL_FLAG(bool, skip_special_tokens, true, "detokenize: leave special tokens out");
ABSL_FLAG(std::string, service, "tauserve.inference.v1.InferenceService",
          "health: service to ask about; empty: the process");
ABSL_FLAG(absl::Duration, wait, absl::ZeroDuration(), "health: wait so long for SERVING");
ABSL_FLAG(absl::Duration, drain_timeout, absl::Seconds(30), "drain: then abort what is left");

namespace tauserve::client {
namespace {

constexpr char kUsageText[] =
    "asks a Tauserve server.\n"
    "  tauserve-cli generate [PROMPT] [flags]   generate from an argument, --file, --prompts or "
    "stdin\n"
    "  tauserve-cli tokenize [TEXT]             ids and spellings\n"
    "  tauserve-cli detokenize ID...            text\n"
    "  tauserve-cli info                        model; with --control, server\n"
    "  tauserve-cli load | abort [ID...] | drain   (control port)\n"
    "  tauserve-cli health [--wait=10s]         exit code 0 if SERVING\n"
    "Exit codes: 0 done, 1 the server refused or an expected answer was not given, 2 usage,\n"
    "3 not reachable or not ready, 130 interrupted.";

int Usage(const std::string& message) {
  std::fprintf(stderr, "tauserve-cli: %s (--help shows the commands)\n", message.c_str());
  return kUsage;
}

std::string AddressOf(const std::string& flag, const char* variable, const char* otherwise) {
  if (!flag.empty()) return flag;
  const char* set = std::getenv(variable);
  return set != nullptr && *set != '\0' ? set : otherwise;
}

bool ParseIds(const std::vector<std::string>& words, std::vector<uint32_t>& ids) {
  for (const std::string& word : words) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) return false;
    ids.push_back(id);
  }
  return true;
}

// From the argument, --file or, if there is neither, standard input.
bool ReadText(const std::vector<std::string>& arguments, std::string& text) {
  if (!arguments.empty()) {
    text = arguments[0];
    return true;
  }
  const std::string file = absl::GetFlag(FLAGS_file);
  if (file.empty() || file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
    return true;
  }
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return false;
  text.assign(std::istreambuf_iterator<char>(stream), {});
  return true;
}

void FillSampling(v1::SamplingParameters& p) {
  if (auto v = absl::GetFlag(FLAGS_temperature)) p.set_temperature(*v);
  if (auto v = absl::GetFlag(FLAGS_top_k)) p.set_top_k(*v);
  if (auto v = absl::GetFlag(FLAGS_top_p)) p.set_top_p(*v);
  if (auto v = absl::GetFlag(FLAGS_min_p)) p.set_min_p(*v);
  if (auto v = absl::GetFlag(FLAGS_typical_p)) p.set_typical_p(*v);
  if (auto v = absl::GetFlag(FLAGS_repetition_penalty)) p.set_repetition_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_presence_penalty)) p.set_presence_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_frequency_penalty)) p.set_frequency_penalty(*v);
  if (auto v = absl::GetFlag(FLAGS_seed)) p.set_seed(*v);
}

// False if a token id is not a number.
bool FillStopping(v1::StoppingCriteria& c) {
  if (auto v = absl::GetFlag(FLAGS_max_new_tokens)) c.set_max_new_tokens(*v);
  if (auto v = absl::GetFlag(FLAGS_min_new_tokens)) c.set_min_new_tokens(*v);
  for (const std::string& stop : absl::GetFlag(FLAGS_stop)) c.add_stop_strings(stop);
  std::vector<uint32_t> ids;
  if (!ParseIds(absl::GetFlag(FLAGS_stop_token_ids), ids)) return false;
  c.mutable_stop_token_ids()->Assign(ids.begin(), ids.end());
  c.set_include_stop_in_output(absl::GetFlag(FLAGS_include_stop_in_output));
  c.set_ignore_eos(absl::GetFlag(FLAGS_ignore_eos));
  const absl::Duration limit = absl::GetFlag(FLAGS_time_limit);
  if (limit != absl::ZeroDuration()) {
    c.mutable_time_limit()->set_seconds(absl::ToInt64Seconds(limit));
    c.mutable_time_limit()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(limit % absl::Seconds(1))));
  }
  return true;
}

int Generate(Client& client, const std::vector<std::string>& arguments) {
  if (arguments.size() > 1) return Usage("generate takes one prompt; quote it");
  GenerateOptions options;
  options.json = absl::GetFlag(FLAGS_json);
  options.stream = absl::GetFlag(FLAGS_stream);
  options.progress = absl::GetFlag(FLAGS_progress);
  options.stats = absl::GetFlag(FLAGS_stats);
  v1::GenerationInput& input = options.input;
  if (!absl::GetFlag(FLAGS_token_ids).empty()) {
    std::vector<uint32_t> ids;
    if (!ParseIds(absl::GetFlag(FLAGS_token_ids), ids)) return Usage("--token_ids are numbers");
    input.mutable_token_ids()->mutable_ids()->Assign(ids.begin(), ids.end());
  } else if (!absl::GetFlag(FLAGS_prompts).empty()) {
    const auto prompt = ReadPrompt(absl::GetFlag(FLAGS_prompts), absl::GetFlag(FLAGS_prompt_id));
    if (!prompt.ok()) return Usage(std::string(prompt.status().message()));
    input.set_text(prompt->text);
    options.expected = *prompt;
  } else {
    std::string text;
    if (!ReadText(arguments, text)) return Usage(absl::GetFlag(FLAGS_file) + " cannot be read");
    input.set_text(text);
  }
  input.set_request_id(absl::GetFlag(FLAGS_request_id));
  input.set_model(absl::GetFlag(FLAGS_model));
  FillSampling(*input.mutable_sampling());
  if (!FillStopping(*input.mutable_stopping())) return Usage("--stop_token_ids are numbers");
  if (auto v = absl::GetFlag(FLAGS_top_logprobs)) input.mutable_response()->set_top_logprobs(*v);
  input.mutable_response()->set_token_ids(absl::GetFlag(FLAGS_return_token_ids));
  if (auto v = absl::GetFlag(FLAGS_truncate_prompt_tokens)) input.set_truncate_prompt_tokens(*v);
  return RunGenerate(client, options);
}

int Dispatch(const std::string& command, const std::vector<std::string>& arguments, Client& client,
             Client& control) {
  if (command == "generate") return Generate(client, arguments);
  if (command == "tokenize") {
    std::string text;
    if (!ReadText(arguments, text)) return Usage(absl::GetFlag(FLAGS_file) + " cannot be read");
    return RunTokenize(client, text, absl::GetFlag(FLAGS_special_tokens),
                       absl::GetFlag(FLAGS_json));
  }
  if (command == "detokenize") {
    std::vector<uint32_t> ids;
    if (!ParseIds(arguments, ids)) return Usage("detokenize takes token ids");
    return RunDetokenize(client, ids, absl::GetFlag(FLAGS_skip_special_tokens));
  }
  if (command == "info") {
    return RunInfo(client, absl::GetFlag(FLAGS_control).empty() ? nullptr : &control);
  }
  if (command == "load") return RunLoad(control);
  if (command == "health") {
    return RunHealth(client, absl::GetFlag(FLAGS_service), absl::GetFlag(FLAGS_wait));
  }
  if (command == "abort") return RunAbort(control, arguments);
  if (command == "drain") return RunDrain(control, absl::GetFlag(FLAGS_drain_timeout));
  return Usage("unknown command '" + command + "'");
}

// Blocked in all threads that are made later, gRPC's too; one thread waits for them.
sigset_t BlockInterrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

// Ctrl-C ends the call under way; a second one, the process.
void CancelOnInterrupt(const sigset_t& signals, Client* client, Client* control) {
  std::thread([signals, client, control] {
    int signal = 0;
    sigwait(&signals, &signal);
    client->Cancel();
    control->Cancel();
    sigwait(&signals, &signal);
    std::_Exit(kInterrupted);
  }).detach();
}

int Main(int argc, char** argv) {
  absl::SetProgramUsageMessage(kUsageText);
  absl::FlagsUsageConfig usage;
  usage.version_string = [] { return std::string("tauserve-cli " TAUSERVE_VERSION "\n"); };
  usage.contains_help_flags = [](absl::string_view file) {
    return absl::StrContains(file, "clients/cpp");
  };
  absl::SetFlagsUsageConfig(usage);
  std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  if (words.size() < 2) return Usage("no command");
  const std::vector<std::string> arguments(words.begin() + 2, words.end());
  std::optional<std::chrono::milliseconds> timeout;
  if (absl::GetFlag(FLAGS_timeout) != absl::InfiniteDuration()) {
    timeout = absl::ToChronoMilliseconds(absl::GetFlag(FLAGS_timeout));
  }
  const sigset_t signals = BlockInterrupts();
  // They live as long as the process: the signal thread may use them until its end.
  auto* client = new Client(
      AddressOf(absl::GetFlag(FLAGS_server), "TAUSERVE_SERVER", "127.0.0.1:50051"), timeout);
  auto* control = new Client(
      AddressOf(absl::GetFlag(FLAGS_control), "TAUSERVE_CONTROL", "127.0.0.1:50052"), timeout);
  CancelOnInterrupt(signals, client, control);
  const int code = Dispatch(words[1], arguments, *client, *control);
  std::fflush(nullptr);
  std::_Exit(code);
}

}  // namespace
}  // namespace tauserve::client

int main(int argc, char** argv) { return tauserve::client::Main(argc, argv); }
