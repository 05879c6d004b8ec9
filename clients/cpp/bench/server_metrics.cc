#include "clients/cpp/bench/server_metrics.h"

#include <curl/curl.h>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tauserve::bench {
namespace {

constexpr long kPatienceMilliseconds = 10'000;

size_t Append(char* data, size_t size, size_t count, void* text) {
  static_cast<std::string*>(text)->append(data, size * count);
  return size * count;
}

absl::Status Unavailable(const std::string& url, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("metrics: ", url, ": ", why));
}

// The sample's name with its labels, apart from its value.
absl::string_view NameOf(absl::string_view sample) { return sample.substr(0, sample.find('{')); }

bool CountsUp(absl::string_view sample) {
  const absl::string_view name = NameOf(sample);
  return absl::EndsWith(name, "_total") || absl::EndsWith(name, "_count") ||
         absl::EndsWith(name, "_sum");
}

}  // namespace

absl::StatusOr<Counters> ScrapeCounters(const std::string& address) {
  const std::string url =
      absl::StrContains(address, "://") ? address : absl::StrCat("http://", address, "/metrics");
  static const CURLcode global = curl_global_init(CURL_GLOBAL_DEFAULT);
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(),
                                                                 &curl_easy_cleanup);
  if (global != CURLE_OK || curl == nullptr) return Unavailable(url, "libcurl does not start");
  std::string text;
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  // Never through a proxy that the environment names for the web.
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, kPatienceMilliseconds);
  curl_easy_setopt(curl.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &Append);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &text);
  const CURLcode code = curl_easy_perform(curl.get());
  if (code != CURLE_OK) return Unavailable(url, curl_easy_strerror(code));
  absl::StatusOr<Counters> counters = ParseCounters(text);
  if (!counters.ok()) return Unavailable(url, counters.status().message());
  return counters;
}

absl::StatusOr<Counters> ParseCounters(absl::string_view text) {
  Counters counters;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipWhitespace())) {
    if (line[0] == '#') continue;
    // Labels may hold spaces; what follows them is the value, and perhaps a time.
    const size_t labels = line.rfind('}');
    const size_t space = line.find(' ', labels == absl::string_view::npos ? 0 : labels);
    double value = 0;
    const std::vector<absl::string_view> words =
        space == absl::string_view::npos
            ? std::vector<absl::string_view>()
            : absl::StrSplit(line.substr(space), ' ', absl::SkipWhitespace());
    if (words.empty() || !absl::SimpleAtod(words[0], &value)) {
      return absl::InvalidArgumentError(absl::StrCat("no sample: ", line.substr(0, 80)));
    }
    const absl::string_view sample = line.substr(0, space);
    if (CountsUp(sample)) counters[std::string(sample)] = value;
  }
  return counters;
}

Counters Difference(const Counters& before, const Counters& after) {
  Counters difference;
  for (const auto& [sample, value] : after) {
    const auto earlier = before.find(sample);
    difference[sample] = value - (earlier == before.end() ? 0 : earlier->second);
  }
  return difference;
}

double SumOf(const Counters& counters, absl::string_view name, absl::string_view label) {
  double sum = 0;
  for (const auto& [sample, value] : counters) {
    if (NameOf(sample) == name && absl::StrContains(sample, label)) sum += value;
  }
  return sum;
}

}  // namespace tauserve::bench
