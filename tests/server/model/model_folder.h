// A model folder for tests: a tiny Llama of two layers that loads as it is, to be changed and then
// written.
#ifndef TAUSERVE_TESTS_SERVER_MODEL_MODEL_FOLDER_H_
#define TAUSERVE_TESTS_SERVER_MODEL_MODEL_FOLDER_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tauserve {

// An empty folder that is deleted, with what is in it, at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  void Write(const std::string& name, const std::string& bytes) const;

 private:
  std::string path_;
};

// The bytes of a safetensors file with this header and data.
std::string SafetensorsBytes(const std::string& header, const std::string& data);

class ModelFolder {
 public:
  explicit ModelFolder(int vocab_size = 50);

  // Writes config.json and model.safetensors.
  void Write() const;
  const TemporaryFolder& folder() const { return folder_; }
  const std::string& path() const { return folder_.path(); }

  nlohmann::json config;
  std::map<std::string, std::vector<int64_t>>
      shapes;  // the weights are float32 pseudo-random values

 private:
  TemporaryFolder folder_;
};

}  // namespace tauserve

#endif  // TAUSERVE_TESTS_SERVER_MODEL_MODEL_FOLDER_H_
