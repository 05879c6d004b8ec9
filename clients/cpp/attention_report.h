// What entmax attention did, for people and as JSON: of one request, or summed over several.
#ifndef TAUSERVE_CLIENTS_CPP_ATTENTION_REPORT_H_
#define TAUSERVE_CLIENTS_CPP_ATTENTION_REPORT_H_

#include <string>

#include "nlohmann/json.hpp"
#include "tauserve/inference/v1/inference.pb.h"

namespace tauserve::client {

namespace v1 = tauserve::inference::v1;

// A few lines: support, and what was skipped.
std::string AttentionSummary(const v1::AttentionStats& attention);
// All counts, with the shares of what was skipped.
nlohmann::ordered_json AttentionJson(const v1::AttentionStats& attention);

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_ATTENTION_REPORT_H_
