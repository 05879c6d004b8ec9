#include <algorithm>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "clients/cpp/commands.h"
#include "nlohmann/json.hpp"

namespace tauserve::client {
namespace {

const char* NameOf(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  return code >= 0 && code < static_cast<int>(std::size(kNames)) ? kNames[code] : "UNKNOWN";
}

double Seconds(const google::protobuf::Duration& d) { return d.seconds() + d.nanos() * 1e-9; }

void PrintJson(const nlohmann::ordered_json& json) {
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

}  // namespace

int Fail(const grpc::Status& status) {
  std::string retry;
  if (const auto delay = RetryDelayOf(status)) {
    retry = absl::StrFormat(" (try again in %.2f s)", delay->count() / 1e3);
  }
  std::fprintf(stderr, "tauserve-cli: %s: %s%s\n", NameOf(status.error_code()),
               status.error_message().c_str(), retry.c_str());
  if (status.error_code() == grpc::StatusCode::CANCELLED) return kInterrupted;
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ? kUnreachable : kRefused;
}

int RunTokenize(Client& client, const std::string& text, bool add_special_tokens, bool json) {
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_special_tokens(add_special_tokens);
  request.set_return_token_strings(true);
  v1::TokenizeResponse response;
  if (grpc::Status s = client.Tokenize(request, response); !s.ok()) return Fail(s);
  if (json) {
    nlohmann::ordered_json j;
    j["count"] = response.count();
    j["token_ids"] =
        std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end());
    j["token_strings"] =
        std::vector<std::string>(response.token_strings().begin(), response.token_strings().end());
    PrintJson(j);
    return kOk;
  }
  for (int i = 0; i < response.token_ids_size(); i++) {
    std::printf("%7u  %s\n", response.token_ids(i), response.token_strings(i).c_str());
  }
  return kOk;
}

int RunDetokenize(Client& client, const std::vector<uint32_t>& ids, bool skip_special_tokens) {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Assign(ids.begin(), ids.end());
  request.set_skip_special_tokens(skip_special_tokens);
  v1::DetokenizeResponse response;
  if (grpc::Status s = client.Detokenize(request, response); !s.ok()) return Fail(s);
  std::printf("%s\n", response.text().c_str());
  return kOk;
}

int RunInfo(Client& client, Client* control) {
  v1::GetModelResponse model;
  if (grpc::Status s = client.GetModel(model); !s.ok()) return Fail(s);
  nlohmann::ordered_json j;
  j["model"] = model.model();
  j["architecture"] = model.architecture();
  j["max_context_tokens"] = model.max_context_tokens();
  j["vocab_size"] = model.vocab_size();
  j["layers"] = model.num_layers();
  j["attention_heads"] = model.num_attention_heads();
  j["kv_heads"] = model.num_kv_heads();
  j["head_dim"] = model.head_dim();
  j["entmax_alpha"] = {model.entmax_alpha_min(), model.entmax_alpha_max()};
  j["kv_pages"] = model.kv_pages_total();
  j["kv_page_tokens"] = model.kv_page_tokens();
  if (control != nullptr) {
    v1::GetServerInfoResponse info;
    if (grpc::Status s = control->GetServerInfo(info); !s.ok()) return Fail(s);
    j["version"] = info.version();
    j["commit"] = info.commit();
    j["device"] = info.device();
    j["uptime_seconds"] = Seconds(info.uptime());
    j["max_batched_tokens"] = info.max_batched_tokens();
    j["max_running_requests"] = info.max_running_requests();
    j["max_waiting_requests"] = info.max_waiting_requests();
  }
  PrintJson(j);
  return kOk;
}

int RunLoad(Client& control) {
  v1::GetLoadResponse load;
  if (grpc::Status s = control.GetLoad(load); !s.ok()) return Fail(s);
  nlohmann::ordered_json j;
  j["running_requests"] = load.running_requests();
  j["waiting_requests"] = load.waiting_requests();
  j["waiting_prompt_tokens"] = load.waiting_prompt_tokens();
  j["kv_cache_usage_ratio"] = load.kv_cache_usage_ratio();
  if (load.has_since_last_step()) j["since_last_step_seconds"] = Seconds(load.since_last_step());
  j["draining"] = load.draining();
  PrintJson(j);
  return kOk;
}

int RunHealth(Client& client, const std::string& service, absl::Duration wait) {
  const absl::Time end = absl::Now() + wait;
  while (true) {
    bool serving = false;
    const grpc::Status status = client.CheckHealth(service, serving);
    if (serving) {
      std::printf("SERVING\n");
      return kOk;
    }
    if (absl::Now() >= end) {
      if (!status.ok()) return Fail(status);
      std::printf("NOT_SERVING\n");
      return kUnreachable;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

int RunAbort(Client& control, const std::vector<std::string>& request_ids) {
  v1::AbortRequestsRequest request;
  for (const std::string& id : request_ids) request.add_request_ids(id);
  v1::AbortRequestsResponse response;
  if (grpc::Status s = control.AbortRequests(request, response); !s.ok()) return Fail(s);
  std::printf("%s\n", absl::StrJoin(response.aborted_request_ids(), "\n").c_str());
  return kOk;
}

int RunDrain(Client& control, absl::Duration timeout) {
  v1::DrainRequest request;
  request.mutable_timeout()->set_seconds(absl::ToInt64Seconds(timeout));
  v1::DrainResponse response;
  if (grpc::Status s = control.Drain(request, response); !s.ok()) return Fail(s);
  std::printf("aborted %u requests\n", response.aborted_requests());
  return kOk;
}

}  // namespace tauserve::client
