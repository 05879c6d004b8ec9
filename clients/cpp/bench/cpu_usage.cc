#include "clients/cpp/bench/cpu_usage.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace tauserve::bench {

CpuUsage CpuUsage::Now() {
  CpuUsage usage;
  rusage process = {};
  getrusage(RUSAGE_SELF, &process);
  for (const timeval& t : {process.ru_utime, process.ru_stime}) {
    usage.process += t.tv_sec + t.tv_usec * 1e-6;
  }
  // "cpu user nice system idle iowait irq softirq steal ...", in ticks; see proc(5). What follows is
  // in user and nice as well.
  std::ifstream stat("/proc/stat");
  std::string name;
  stat >> name;
  const double tick = 1.0 / sysconf(_SC_CLK_TCK);
  double ticks = 0;
  for (int field = 0; field < 8 && stat >> ticks; field++) {
    usage.machine += ticks * tick;
    const bool idle = field == 3 || field == 4;
    if (!idle) usage.machine_busy += ticks * tick;
  }
  return usage;
}

CpuUsage CpuUsage::Since(const CpuUsage& earlier) const {
  return {process - earlier.process, machine_busy - earlier.machine_busy,
          machine - earlier.machine};
}

int UsableCores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace tauserve::bench
