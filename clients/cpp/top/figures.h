// What top shows of a server: figures by name, in rows, computed from its metrics.
#ifndef TAUSERVE_CLIENTS_CPP_TOP_FIGURES_H_
#define TAUSERVE_CLIENTS_CPP_TOP_FIGURES_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "clients/cpp/top/metrics_window.h"

namespace tauserve::client::top {

enum class Unit { kCount, kSeconds, kShare, kBytes };

struct Figure {
  const char* key;    // in JSON
  const char* label;  // on the screen, after the value
  Unit unit;
  double value;  // NaN: not known
};

struct FigureRow {
  const char* title;
  size_t curve;  // the figure whose history is drawn
  std::vector<Figure> figures;
};

// Always the same rows with the same figures.
std::vector<FigureRow> FiguresOf(const MetricsWindow& window);

// "12", "3.4k", "812 ms", "12.3 %", "1.2 GB"; "-" for what is not known.
std::string FormatFigure(double value, Unit unit);

struct ServerFacts {
  std::string model, architecture, alpha, device, version;
  absl::Time started;  // InfinitePast if the server does not say
  bool stuck = false, draining = false;
};

// From the newest scrape.
ServerFacts FactsOf(const MetricsWindow& window);

}  // namespace tauserve::client::top

#endif  // TAUSERVE_CLIENTS_CPP_TOP_FIGURES_H_
