#include <cstdio>
#include <string>
#include <vector>

#include "clients/cpp/commands.h"

namespace tauserve::client {

int RunTokenize(Client& client, const v1::TokenizeRequest& request, const Console& console) {
  v1::TokenizeResponse response;
  if (grpc::Status s = client.Tokenize(request, response); !s.ok()) return console.Fail(s);
  if (console.json) {
    nlohmann::ordered_json json;
    json["count"] = response.count();
    json["token_ids"] =
        std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end());
    json["token_strings"] =
        std::vector<std::string>(response.token_strings().begin(), response.token_strings().end());
    console.PrintJson(json);
    return kOk;
  }
  for (int i = 0; i < response.token_ids_size(); i++) {
    const bool spelled = i < response.token_strings_size();
    std::fprintf(console.out, "%7u  %s\n", response.token_ids(i),
                 spelled ? response.token_strings(i).c_str() : "");
  }
  return kOk;
}

int RunDetokenize(Client& client, const v1::DetokenizeRequest& request, const Console& console) {
  v1::DetokenizeResponse response;
  if (grpc::Status s = client.Detokenize(request, response); !s.ok()) return console.Fail(s);
  if (console.json) {
    console.PrintJson({{"text", response.text()}});
  } else {
    std::fprintf(console.out, "%s\n", response.text().c_str());
  }
  return kOk;
}

}  // namespace tauserve::client
