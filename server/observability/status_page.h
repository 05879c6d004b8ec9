// The page that the metrics port serves at "/": live charts of its own metrics, without outside resources.
#ifndef TAUSERVE_SERVER_OBSERVABILITY_STATUS_PAGE_H_
#define TAUSERVE_SERVER_OBSERVABILITY_STATUS_PAGE_H_

namespace tauserve {

extern const char kStatusPage[];

}  // namespace tauserve

#endif  // TAUSERVE_SERVER_OBSERVABILITY_STATUS_PAGE_H_
