#include "clients/cpp/metrics/metrics_endpoint.h"

#include <httplib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tauserve::client {
namespace {

constexpr char kPath[] = "/metrics";
constexpr int kOk = 200;
constexpr size_t kMaxBytes = 16 << 20;  // a scrape has a tenth of a megabyte

const char* Name(httplib::Error error) {
  switch (error) {
    case httplib::Error::Connection:
      return "no connection";
    case httplib::Error::ConnectionTimeout:
      return "no connection in time";
    case httplib::Error::Read:
      return "no HTTP answer in time";
    case httplib::Error::Canceled:
      return "the answer is too long";
    default:
      return "the request failed";
  }
}

bool IsTauserve(const Samples& samples) {
  const auto it = samples.lower_bound({"tauserve_build_info", {}});
  return it != samples.end() && it->first.name == "tauserve_build_info";
}

}  // namespace

absl::StatusOr<MetricsEndpoint> MetricsEndpoint::Create(absl::string_view address,
                                                        absl::Duration timeout) {
  const size_t colon = address.rfind(':');
  absl::string_view host = address.substr(0, colon);
  int port = 0;
  const bool numbered = colon != absl::string_view::npos &&
                        absl::SimpleAtoi(address.substr(colon + 1), &port) && port > 0 &&
                        port <= 65535;
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (!numbered || host.empty() || host.find('/') != absl::string_view::npos ||
      (!bracketed && host.find(':') != absl::string_view::npos)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", address, "' is not HOST:PORT, such as 127.0.0.1:9464"));
  }
  auto client = std::make_unique<httplib::Client>(std::string(host), port);
  const auto time = absl::ToChronoMicroseconds(timeout);
  client->set_connection_timeout(time);
  client->set_read_timeout(time);
  client->set_write_timeout(time);
  return MetricsEndpoint(absl::StrCat("http://", address, kPath), std::move(client));
}

MetricsEndpoint::MetricsEndpoint(std::string url, std::unique_ptr<httplib::Client> client)
    : url_(std::move(url)), client_(std::move(client)) {}
MetricsEndpoint::MetricsEndpoint(MetricsEndpoint&&) = default;
MetricsEndpoint::~MetricsEndpoint() = default;

absl::StatusOr<Samples> MetricsEndpoint::Scrape() {
  std::string body;
  const httplib::Result result = client_->Get(kPath, [&body](const char* data, size_t size) {
    body.append(data, size);
    return body.size() <= kMaxBytes;
  });
  if (!result) return absl::UnavailableError(absl::StrCat(url_, ": ", Name(result.error())));
  if (result->status != kOk) {
    return absl::InvalidArgumentError(absl::StrCat(url_, ": HTTP status ", result->status));
  }
  absl::StatusOr<Samples> samples = ParseExposition(body);
  if (!samples.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(url_, ": ", samples.status().message()));
  }
  if (!IsTauserve(*samples)) {
    return absl::InvalidArgumentError(
        absl::StrCat(url_, ": no tauserve_build_info: not a Tauserve server"));
  }
  return samples;
}

}  // namespace tauserve::client
