// Any bytes as a file of weights: refused, or every tensor lies inside the file and has as many bytes as its shape says.
#include <cstdint>

#include "kernels/check.h"
#include "server/model/safetensors.h"
#include "tests/fuzz/memory_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tauserve::MemoryFolder* const folder = new tauserve::MemoryFolder();
  const std::string path = folder->Write("model.safetensors", tauserve::AsText(data, size));
  const auto file = tauserve::SafetensorsFile::Open(path);
  if (!file.ok()) {
    TAUSERVE_CHECK(!file.status().message().empty(), "a reason");
    return 0;
  }
  for (const std::string& name : file->Names()) {
    const auto tensor = file->Find(name);
    if (!tensor.ok()) continue;  // of a type that weights can't have
    int64_t bytes = tauserve::SizeOf(tensor->type);
    for (const int64_t dim : tensor->shape) bytes *= dim;
    TAUSERVE_CHECK(bytes >= 0 && bytes <= static_cast<int64_t>(size),
                   "a tensor larger than the file");
    const auto* values = static_cast<const uint8_t*>(tensor->data);
    uint8_t all = 0;
    for (int64_t i = 0; i < bytes; i++) all ^= values[i];
    __asm__ volatile("" : : "r"(all));  // they are read
  }
  return 0;
}
