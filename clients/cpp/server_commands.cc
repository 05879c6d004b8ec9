#include <cstdio>
#include <string>
#include <vector>

#include "clients/cpp/commands.h"
#include "clients/cpp/report.h"

namespace tauserve::client {
namespace {

nlohmann::ordered_json ModelJson(const v1::GetModelResponse& model) {
  return {{"model", model.model()},
          {"architecture", model.architecture()},
          {"max_context_tokens", model.max_context_tokens()},
          {"vocab_size", model.vocab_size()},
          {"chat_template", model.chat_template()},
          {"eos_token_ids",
           std::vector<uint32_t>(model.eos_token_ids().begin(), model.eos_token_ids().end())},
          {"layers", model.num_layers()},
          {"attention_heads", model.num_attention_heads()},
          {"kv_heads", model.num_kv_heads()},
          {"head_dim", model.head_dim()},
          {"entmax_alpha", {model.entmax_alpha_min(), model.entmax_alpha_max()}},
          {"kv_pages", model.kv_pages_total()},
          {"kv_page_tokens", model.kv_page_tokens()}};
}

void AddServer(const v1::GetServerInfoResponse& info, nlohmann::ordered_json& json) {
  json["version"] = info.version();
  json["commit"] = info.commit();
  json["instance_id"] = info.instance_id();
  json["device"] = info.device();
  json["compiled_devices"] =
      std::vector<std::string>(info.compiled_devices().begin(), info.compiled_devices().end());
  json["uptime_seconds"] = ToSeconds(info.uptime());
  json["max_batched_tokens"] = info.max_batched_tokens();
  json["max_running_requests"] = info.max_running_requests();
  json["max_waiting_requests"] = info.max_waiting_requests();
}

int ShowHealth(const char* state, int code, const Console& console) {
  if (console.json) {
    console.PrintJson({{"status", state}});
  } else {
    std::fprintf(console.out, "%s\n", state);
  }
  return code;
}

}  // namespace

int RunInfo(Client& client, Client* control, const Console& console) {
  v1::GetModelResponse model;
  if (grpc::Status s = client.GetModel(model); !s.ok()) return console.Fail(s);
  nlohmann::ordered_json json = ModelJson(model);
  if (control != nullptr) {
    v1::GetServerInfoResponse info;
    if (grpc::Status s = control->GetServerInfo(info); !s.ok()) return console.Fail(s);
    AddServer(info, json);
  }
  console.PrintJson(json);
  return kOk;
}

int RunLoad(Client& control, const Console& console) {
  v1::GetLoadResponse load;
  if (grpc::Status s = control.GetLoad(load); !s.ok()) return console.Fail(s);
  nlohmann::ordered_json json = {{"running_requests", load.running_requests()},
                                 {"waiting_requests", load.waiting_requests()},
                                 {"waiting_prompt_tokens", load.waiting_prompt_tokens()},
                                 {"kv_cache_usage_ratio", load.kv_cache_usage_ratio()}};
  if (load.has_since_last_step()) {
    json["since_last_step_seconds"] = ToSeconds(load.since_last_step());
  }
  json["draining"] = load.draining();
  console.PrintJson(json);
  return kOk;
}

int RunHealth(Client& client, const std::string& service, absl::Duration wait,
              const Console& console) {
  bool serving = false;
  const grpc::Status status =
      client.WaitUntilServing(service, absl::ToChronoMilliseconds(wait), serving);
  if (!status.ok()) return console.Fail(status);
  return serving ? ShowHealth("SERVING", kOk, console)
                 : ShowHealth("NOT_SERVING", kRefused, console);
}

int RunAbort(Client& control, const std::vector<std::string>& request_ids, const Console& console) {
  v1::AbortRequestsRequest request;
  request.mutable_request_ids()->Assign(request_ids.begin(), request_ids.end());
  v1::AbortRequestsResponse response;
  if (grpc::Status s = control.AbortRequests(request, response); !s.ok()) return console.Fail(s);
  const auto& ids = response.aborted_request_ids();
  if (console.json) {
    console.PrintJson({{"aborted_request_ids", std::vector<std::string>(ids.begin(), ids.end())}});
  } else {
    for (const std::string& id : ids) std::fprintf(console.out, "%s\n", id.c_str());
  }
  return kOk;
}

int RunDrain(Client& control, absl::Duration timeout, const Console& console) {
  v1::DrainRequest request;
  const int64_t seconds = absl::ToInt64Seconds(timeout);
  request.mutable_timeout()->set_seconds(seconds);
  request.mutable_timeout()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(timeout - absl::Seconds(seconds))));
  v1::DrainResponse response;
  if (grpc::Status s = control.Drain(request, response); !s.ok()) return console.Fail(s);
  if (console.json) {
    console.PrintJson({{"aborted_requests", response.aborted_requests()}});
  } else {
    std::fprintf(console.out, "aborted %u requests\n", response.aborted_requests());
  }
  return kOk;
}

}  // namespace tauserve::client
