// Reads a server's /metrics over HTTP.
#ifndef TAUSERVE_CLIENTS_CPP_METRICS_METRICS_ENDPOINT_H_
#define TAUSERVE_CLIENTS_CPP_METRICS_METRICS_ENDPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "clients/cpp/metrics/exposition.h"

namespace httplib {
class Client;
}

namespace tauserve::client {

// Used by one thread at a time.
class MetricsEndpoint {
 public:
  // `address` is HOST:PORT. InvalidArgument for anything else. Connecting, and each read, may take `timeout`.
  static absl::StatusOr<MetricsEndpoint> Create(absl::string_view address, absl::Duration timeout);
  MetricsEndpoint(MetricsEndpoint&&);
  ~MetricsEndpoint();

  // Unavailable if nobody answers there; InvalidArgument if what answers is no Tauserve server. Both name the address.
  absl::StatusOr<Samples> Scrape();

 private:
  MetricsEndpoint(std::string url, std::unique_ptr<httplib::Client> client);

  std::string url_;
  std::unique_ptr<httplib::Client> client_;
};

}  // namespace tauserve::client

#endif  // TAUSERVE_CLIENTS_CPP_METRICS_METRICS_ENDPOINT_H_
