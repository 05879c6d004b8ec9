// Whether the load generator, rather than the server, is what is measured: CPU time of both.
#ifndef TAUSERVE_CLIENTS_CPP_BENCH_CPU_USAGE_H_
#define TAUSERVE_CLIENTS_CPP_BENCH_CPU_USAGE_H_

namespace tauserve::bench {

// Seconds, summed over cores, from times that differ in nothing but when they were taken.
struct CpuUsage {
  double process = 0;  // this one's
  // The whole machine's, a server on it included: at work, and altogether. 0 if it does not tell.
  double machine_busy = 0;
  double machine = 0;

  static CpuUsage Now();
  CpuUsage Since(const CpuUsage& earlier) const;
};

// Cores that this process may use.
int UsableCores();

}  // namespace tauserve::bench

#endif  // TAUSERVE_CLIENTS_CPP_BENCH_CPU_USAGE_H_
